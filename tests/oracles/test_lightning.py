"""Lightning: same weights as by its own clip in every precision, checkpoints, failed trainings."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.precision import MixedPrecision
from support import ROOTS, Running
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import gradhelm
from gradhelm import notice
from gradhelm.clip import GlobalNorm, PerParameterNorm, Value
from gradhelm.integrations.lightning import GradhelmCallback

from .frameworks import CODED, bits, remote, runs_named, series

pytestmark = [
    pytest.mark.filterwarnings(rf"ignore:{text}")
    for text in (
        # Lightning's advice about this machine, and what it itself uses of torch.
        "The '.*_dataloader' does not have many workers",
        "You defined a `validation_step` but have no `val_dataloader`",
        "The dirpath has changed",  # of a ModelCheckpoint that goes on elsewhere
        "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
    )
]


@pytest.fixture(autouse=True)
def faults_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notice, "strict", True)
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)


class Text(Dataset):
    def __init__(self, size: int = 64) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Tensor:
        return torch.randint(20, (8,), generator=torch.Generator().manual_seed(index))


class Speaker(pl.LightningModule):
    """A small LSTM that is logged in all the ways that Lightning has."""

    def __init__(self, optimizer: str = "adamw") -> None:
        super().__init__()
        self.save_hyperparameters()
        self.embedding = nn.Embedding(20, 12)
        self.lstm = nn.LSTM(12, 12, 2, batch_first=True)
        self.decoder = nn.Linear(12, 20)

    def loss(self, batch: Tensor) -> Tensor:
        logits = self.decoder(self.lstm(self.embedding(batch[:, :-1]))[0])
        return 20 * nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), batch[:, 1:].flatten()
        )

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        loss = self.loss(batch)
        self.log("loss", loss)
        self.log("mean_loss", loss, on_step=False, on_epoch=True)
        if index % 4 == 0:
            self.log("seldom", float(index))
        return loss

    def validation_step(self, batch: Tensor, index: int) -> None:
        self.log("val_loss", self.loss(batch))

    def configure_optimizers(self):
        match self.hparams.optimizer:
            case "adamw":
                return torch.optim.AdamW(self.parameters(), lr=1e-2)
            case "fused":
                return torch.optim.AdamW(self.parameters(), lr=1e-2, fused=True)
            case "lbfgs":
                return torch.optim.LBFGS(self.parameters(), lr=1e-3, max_iter=4)
            case _:
                return torch.optim.SGD(self.parameters(), lr=1e-3)


class ByHand(Speaker):
    """Manual optimization, with the clip that Lightning's guide shows."""

    automatic_optimization = False
    own: float | None = CODED

    def training_step(self, batch: Tensor, index: int) -> None:
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)
        optimizer.zero_grad()
        self.manual_backward(self.loss(batch))
        if self.own is not None:
            self.clip_gradients(
                optimizer, gradient_clip_val=self.own, gradient_clip_algorithm="norm"
            )
        optimizer.step()


def make(*callbacks: pl.Callback, **options: object) -> pl.Trainer:
    return pl.Trainer(
        **{
            "accelerator": "cpu",
            "max_epochs": 2,
            "logger": False,
            "enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks),
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "callbacks": list(callbacks),
            **options,
        }
    )


def fit(
    model: pl.LightningModule, *callbacks: pl.Callback, validate: bool = False, **options: object
) -> pl.LightningModule:
    loaders = {"train_dataloaders": DataLoader(Text(), batch_size=8)}
    if validate:
        loaders["val_dataloaders"] = DataLoader(Text(16), batch_size=8)
    path = options.pop("ckpt_path", None)
    trainer = options.pop("trainer", None) or make(*callbacks, **options)
    trainer.fit(model, **loaders, ckpt_path=path)
    return model


def speaker(kind: type[Speaker] = Speaker, optimizer: str = "adamw") -> Speaker:
    torch.manual_seed(0)
    return kind(optimizer)


def scaled() -> MixedPrecision:
    """What "16-mixed" is on a GPU: a GradScaler. Forward passes stay float32 on this CPU."""

    class Scaled(MixedPrecision):
        def autocast_context_manager(self) -> torch.autocast:
            return torch.autocast("cpu", enabled=False)

    return Scaled("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=2.0**8))


PRECISIONS = {
    "32": dict,
    "bf16-mixed": lambda: {"precision": "bf16-mixed"},
    "16-mixed": lambda: {"plugins": [scaled()]},
}


@pytest.mark.parametrize("algorithm", ["norm", "value"])
@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_weights_are_those_of_lightnings_own_clip(
    precision: str, accumulate: int, algorithm: str
) -> None:
    def options() -> dict:
        return {"accumulate_grad_batches": accumulate, **PRECISIONS[precision]()}

    threshold = CODED if algorithm == "norm" else 0.02
    own = {"gradient_clip_val": threshold, "gradient_clip_algorithm": algorithm}
    wanted = fit(speaker(), **own, **options())
    callback = GradhelmCallback(mode="disabled")
    trainer = make(callback, **own, **options())
    found = fit(speaker(), trainer=trainer)
    assert bits(found) == bits(wanted)
    assert bits(found) != bits(fit(speaker(), **options()))
    assert callback.run is not None
    assert callback.run.step == 2 * -(-8 // accumulate)
    assert callback.run.threshold == threshold
    # Lightning's own clip is as it was.
    assert trainer.gradient_clip_val == threshold
    assert "clip_gradients" not in vars(trainer.precision_plugin)


@pytest.mark.parametrize("optimizer", ["sgd", "lbfgs", "fused"])
def test_whatever_the_optimizer(optimizer: str) -> None:
    wanted = fit(speaker(optimizer=optimizer), gradient_clip_val=CODED)
    callback = GradhelmCallback(max_norm=CODED, mode="disabled")
    found = fit(speaker(optimizer=optimizer), callback)
    assert bits(found) == bits(wanted)
    assert callback.run is not None
    assert callback.run.step == 16


def test_a_fused_optimizer_may_be_clipped_in_half_precision() -> None:
    """Lightning itself refuses that pair; the run unscales first."""
    with pytest.raises(RuntimeError, match="does not allow for gradient clipping"):
        fit(speaker(optimizer="fused"), gradient_clip_val=CODED, **PRECISIONS["16-mixed"]())
    callback = GradhelmCallback(mode="disabled")
    found = fit(
        speaker(optimizer="fused"),
        callback,
        gradient_clip_val=CODED,
        **PRECISIONS["16-mixed"](),
    )
    wanted = fit(speaker(optimizer="fused"), gradient_clip_val=CODED)
    for p, q in zip(found.parameters(), wanted.parameters(), strict=True):
        torch.testing.assert_close(p, q)


class Unscaled(pl.Callback):
    """torch's own clip of true gradients."""

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        torch.nn.utils.clip_grad_norm_(module.parameters(), CODED)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("asks", [True, False], ids=["module-still-clips", "module-does-not"])
def test_manual_optimization(precision: str, asks: bool) -> None:
    wanted = speaker(ByHand)
    if precision == "16-mixed":
        # Before the step, where the guide clips, gradients are still scaled: that clips too much.
        wanted.own = None
        fit(wanted, Unscaled(), **PRECISIONS[precision]())
    else:
        fit(wanted, **PRECISIONS[precision]())
    found = speaker(ByHand)
    found.own = CODED / 10 if asks else None
    callback = GradhelmCallback(max_norm=CODED, mode="disabled")
    fit(found, callback, **PRECISIONS[precision]())
    assert bits(found) == bits(wanted)
    assert callback.run is not None
    assert callback.run.step == 16


class Overridden(Speaker):
    def configure_gradient_clipping(self, optimizer, *args: object, **kwargs: object) -> None:
        self.clip_gradients(optimizer, gradient_clip_val=CODED, gradient_clip_algorithm="norm")


def test_an_overridden_clip_is_taken_over_too() -> None:
    wanted = fit(speaker(), gradient_clip_val=2 * CODED)
    found = fit(speaker(Overridden), GradhelmCallback(max_norm=2 * CODED, mode="disabled"))
    assert bits(found) == bits(wanted)


def test_without_a_threshold_the_modules_own_clip_stays_and_one_warning_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    callback = GradhelmCallback(mode="disabled")
    with caplog.at_level(logging.WARNING, "gradhelm"):
        found = fit(speaker(Overridden), callback)
    assert bits(found) == bits(fit(speaker(Overridden)))
    assert callback.run is not None
    assert callback.run.step == 16
    told = [r.getMessage() for r in caplog.records if r.name == "gradhelm"]
    assert [text[:40] for text in told] == ["Lightning clips before gradhelm looks: t"]


def to(server: Running, **options: object) -> GradhelmCallback:
    return GradhelmCallback(server=server.url, token=server.token, **options)


class Norms(pl.Callback):
    """The norms that Lightning's own hook sees before any clip."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        grads = [p.grad for p in module.parameters() if p.grad is not None]
        self.seen.append(torch.nn.utils.get_total_norm(grads).item())


def test_what_is_recorded_and_logged(server: Running) -> None:
    norms = Norms()
    callback = to(server, name="logged", config={"extra": 1}, tags=["t"])
    fit(speaker(), callback, norms, validate=True, gradient_clip_val=CODED)
    (found,) = runs_named(server, "logged")
    found = server.get(f"runs/{found['id']}")
    assert (found["status"], found["steps"], found["tags"]) == ("finished", 16, ["t"])
    assert found["config"] == {"optimizer": "adamw", "total_steps": 16, "extra": 1}
    told = series(server, found["id"], "global_norm,loss,mean_loss,seldom,val_loss,lr,threshold")
    assert told["global_norm"]["mean"] == pytest.approx(norms.seen, rel=1e-6)
    assert set(told["threshold"]["mean"]) == {CODED}
    # Each metric at the steps at which it was logged, and at no other.
    assert told["loss"]["step"] == list(range(16))
    assert told["seldom"]["step"] == [0, 4, 8, 12]
    assert told["seldom"]["mean"] == [0, 4, 0, 4]
    assert told["val_loss"]["step"] == told["mean_loss"]["step"] == [7, 15]
    first = told["loss"]["mean"][:8]
    assert told["mean_loss"]["mean"][0] == pytest.approx(sum(first) / 8, rel=1e-5)


def keep(home: Path) -> ModelCheckpoint:
    return ModelCheckpoint(home, "{step}", every_n_train_steps=8, save_top_k=-1)


def test_a_checkpoint_goes_on_with_its_run(server: Running, tmp_path: Path) -> None:
    options = {"clip": PerParameterNorm(0.3), "name": "a fit resumed"}
    wanted = fit(speaker(), to(server, **options), keep(tmp_path / "first"))
    path = tmp_path / "first" / "step=8.ckpt"
    saved = torch.load(path, weights_only=True)
    assert server.token not in str(saved["callbacks"])
    callback = to(server, **options)
    found = fit(speaker(), callback, keep(tmp_path / "again"), ckpt_path=path)
    assert bits(found) == bits(wanted)
    (run,) = runs_named(server, "a fit resumed")
    assert callback.run is not None
    assert callback.run.id == run["id"]
    assert series(server, run["id"], "global_norm")["global_norm"]["step"] == list(range(16))
    # A later fit of its own is not that run.
    fit(speaker(), callback)
    assert len(runs_named(server, "a fit resumed")) == 2


def test_a_threshold_edited_since_the_checkpoint_is_the_scripts(tmp_path: Path) -> None:
    first = GradhelmCallback(mode="disabled")
    fit(speaker(), first, keep(tmp_path / "first"), gradient_clip_val=CODED)
    callback = GradhelmCallback(mode="disabled")
    fit(
        speaker(),
        callback,
        keep(tmp_path / "again"),
        gradient_clip_val=0.125,
        ckpt_path=tmp_path / "first" / "step=8.ckpt",
    )
    assert callback.run is not None
    assert (callback.run.step, callback.run.threshold) == (16, 0.125)


def test_another_strategy_since_the_checkpoint_starts_anew_in_the_same_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = GradhelmCallback(max_norm=CODED, mode="disabled")
    fit(speaker(), first, keep(tmp_path / "first"))
    callback = GradhelmCallback(clip=Value(0.25), mode="disabled")
    path = tmp_path / "first" / "step=8.ckpt"
    with caplog.at_level(logging.WARNING, "gradhelm"):
        fit(speaker(), callback, keep(tmp_path / "again"), ckpt_path=path)
    assert first.run is not None
    assert callback.run is not None
    assert (callback.run.id, callback.run.step) == (first.run.id, 16)
    assert callback.run.threshold == 0.25
    assert "the strategy starts anew" in caplog.text


class Fails(Speaker):
    error: BaseException = RuntimeError("out of memory, say")

    def training_step(self, batch: Tensor, index: int) -> Tensor:
        if index == 3:
            raise self.error
        return self.loss(batch)


def test_a_training_that_raises_ends_as_failed_and_clipping_is_lightnings_again(
    server: Running,
) -> None:
    callback = to(server, name="a fit that raised")
    trainer = make(callback, gradient_clip_val=CODED)
    with pytest.raises(RuntimeError, match="out of memory"):
        fit(speaker(Fails), trainer=trainer)
    (found,) = runs_named(server, "a fit that raised")
    found = server.get(f"runs/{found['id']}")
    assert (found["status"], found["steps"]) == ("failed", 3)
    assert found["status_reason"] == "RuntimeError: out of memory, say"
    assert "clip_gradients" not in vars(trainer.precision_plugin)


def test_a_training_interrupted_by_a_person_ends_as_stopped(server: Running) -> None:
    class Interrupted(Fails):
        error = KeyboardInterrupt()

    with pytest.raises(SystemExit):
        fit(speaker(Interrupted), to(server, name="interrupted"))
    (found,) = runs_named(server, "interrupted")
    assert found["status"] == "stopped"


def test_an_argument_that_attach_does_not_have_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="attach has no argument max_nrom"):
        GradhelmCallback(max_nrom=1.0)


def test_a_strategy_of_ones_own_wins_over_the_trainers_threshold() -> None:
    wanted = fit(speaker(), gradient_clip_val=CODED)
    found = fit(
        speaker(),
        GradhelmCallback(clip=GlobalNorm(CODED), mode="disabled"),
        gradient_clip_val=0.001,
    )
    assert bits(found) == bits(wanted)


OLD_NAME = """
import sys, warnings
warnings.simplefilter("ignore")
import pytorch_lightning, torch
from gradhelm.integrations.lightning import GradhelmCallback
assert issubclass(GradhelmCallback, pytorch_lightning.Callback)
assert "lightning.pytorch" not in sys.modules

class Model(pytorch_lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 1)
    def training_step(self, batch, index):
        return self.layer(batch).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

callback = GradhelmCallback(mode="disabled")
pytorch_lightning.Trainer(
    accelerator="cpu", max_steps=3, logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False, gradient_clip_val=0.5,
    callbacks=[callback],
).fit(Model(), torch.utils.data.DataLoader(torch.randn(32, 4)))
print(callback.run.step, callback.run.threshold)
"""


def test_the_older_name_of_the_package_works_where_a_script_uses_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OLD_NAME],
        env={"PYTHONPATH": ":".join(ROOTS)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["3", "0.5"]


class Until(pl.Callback):
    """Ends training when the person at the other machine is done."""

    def __init__(self, person) -> None:
        self.person = person

    def on_train_batch_end(self, trainer, *args: object) -> None:
        time.sleep(0.002)
        trainer.should_stop = self.person.done(trainer.global_step)


def test_a_threshold_set_from_outside_takes_hold_at_the_step_that_is_reported(
    server: Running,
) -> None:
    control = gradhelm.Control(min=0.01, max=1.0)
    with remote(server, "fit steered") as person:
        fit(
            speaker(optimizer="sgd"),
            to(server, name="fit steered", control=control),
            Until(person),
            gradient_clip_val=CODED,
            max_epochs=-1,
        )
    person.check()


class Two(pl.LightningModule):
    """Two optimizers by hand, as a GAN has them; the second one steps every other time."""

    automatic_optimization = False

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 8)

    def training_step(self, batch: Tensor, index: int) -> None:
        for optimizer, layer in zip(self.optimizers(), (self.one, self.other), strict=True):
            if layer is self.other and index % 2:
                continue
            optimizer.zero_grad()
            self.manual_backward(layer(batch.float()).square().mean())
            optimizer.step()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (self.one, self.other)]


class EachByItself(pl.Callback):
    def on_before_optimizer_step(self, trainer, module, optimizer) -> None:
        torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], CODED)


def test_each_of_several_optimizers_is_a_stream_with_its_own_norm() -> None:
    def two() -> Two:
        torch.manual_seed(0)
        return Two()

    wanted = fit(two(), EachByItself())
    callback = GradhelmCallback(max_norm=CODED, mode="disabled")
    found = fit(two(), callback)
    assert bits(found) == bits(wanted)
    assert bits(found) != bits(fit(two()))
    assert callback.run is not None
    assert [stream.step for stream in callback.run.streams.values()] == [16, 8]
