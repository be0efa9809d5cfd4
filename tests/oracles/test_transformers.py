"""The Hugging Face Trainer: same weights as by its own clip, checkpoints, and failed trainings."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from support import Program, Running
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

import gradhelm
from gradhelm import notice
from gradhelm.clip import GlobalNorm, PerParameterNorm, Strategy, Value
from gradhelm.integrations.transformers import GradhelmCallback

from .frameworks import CODED, bits, remote, runs_named, series


@pytest.fixture(autouse=True)
def faults_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notice, "strict", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


class Text(Dataset):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        words = torch.randint(50, (16,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": words, "labels": words}


class Labelled(Text):
    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {**super().__getitem__(index), "labels": torch.tensor(index % 2)}


def gpt2() -> PreTrainedModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=50,
            n_positions=16,
            n_embd=32,
            n_layer=2,
            n_head=2,
            bos_token_id=0,
            eos_token_id=0,
        )
    )


def bert() -> PreTrainedModel:
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=50,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=16,
        )
    )


def make(home: Path, *callbacks: TrainerCallback, model=gpt2, data=Text, **options) -> Trainer:
    arguments = TrainingArguments(
        **{
            "output_dir": str(home),
            "use_cpu": True,
            "report_to": "none",
            "disable_tqdm": True,
            "per_device_train_batch_size": 4,
            "max_steps": 10,
            "logging_steps": 1,
            "save_strategy": "no",
            "learning_rate": 1e-2,
            "max_grad_norm": CODED,
            **options,
        }
    )
    return Trainer(model(), arguments, train_dataset=data(), callbacks=list(callbacks))


def trained(home: Path, *callbacks: TrainerCallback, **options) -> Trainer:
    trainer = make(home, *callbacks, **options)
    trainer.train()
    return trainer


def norms(trainer: Trainer) -> list[float]:
    return [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]


def to(server: Running, **options: object) -> GradhelmCallback:
    return GradhelmCallback(server=server.url, token=server.token, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_accumulation_steps": 3},
        {"bf16": True},
        {"bf16": True, "gradient_accumulation_steps": 2},
        {"optim": "sgd"},
        {"optim": "adamw_torch_fused"},
        {"model": bert, "data": Labelled},
    ],
    ids=str,
)
def test_weights_are_those_of_the_trainers_own_clip(tmp_path, options: dict) -> None:
    wanted = trained(tmp_path, **options)
    assert max(norms(wanted)) > CODED
    callback = GradhelmCallback(mode="disabled")
    found = trained(tmp_path, callback, **options)
    assert bits(found.model) == bits(wanted.model)
    assert norms(found) == norms(wanted)
    assert bits(found.model) != bits(trained(tmp_path, **options, max_grad_norm=0).model)
    assert callback.run is not None
    assert callback.run.step == 10
    assert found.args.max_grad_norm == CODED
    assert callback.run.threshold == CODED


def test_a_threshold_of_ones_own_wins_over_the_arguments(tmp_path) -> None:
    wanted = trained(tmp_path, max_grad_norm=CODED)
    found = trained(tmp_path, GradhelmCallback(max_norm=CODED, mode="disabled"), max_grad_norm=7.0)
    assert bits(found.model) == bits(wanted.model)
    assert found.args.max_grad_norm == 7.0


class ByHand(TrainerCallback):
    """Clips each element, where the Trainer itself no longer clips."""

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs) -> None:
        torch.nn.utils.clip_grad_value_(model.parameters(), 0.01)


def test_another_strategy_clips_in_the_place_of_the_trainers(tmp_path) -> None:
    wanted = trained(tmp_path, ByHand(), max_grad_norm=0)
    found = trained(tmp_path, GradhelmCallback(clip=Value(0.01), mode="disabled"))
    assert bits(found.model) == bits(wanted.model)


class Explode(TrainerCallback):
    """Makes one gradient infinite in the third step's backward pass."""

    def on_step_begin(self, args, state, control, model=None, **kwargs) -> None:
        if state.global_step == 2:
            handle = model.transformer.wpe.weight.register_hook(
                lambda g: handle.remove() or torch.full_like(g, torch.inf)
            )


class Seen(Strategy):
    """Clips nothing; keeps the norms it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[float]] = []

    def clip(self, grads):
        self.seen.append(grads.norms.tolist())
        return grads.by_norm(1.0, torch.ones(()))


def test_one_infinite_gradient_is_seen_alone(tmp_path) -> None:
    """Where the Trainer measures by clipping at infinity, all of them would be NaN."""
    strategy = Seen()
    for options in ({}, {"max_grad_norm": 0}):
        strategy.seen.clear()
        trained(
            tmp_path,
            Explode(),
            GradhelmCallback(clip=strategy, mode="disabled"),
            max_steps=3,
            logging_nan_inf_filter=False,
            **options,
        )
        finite = [torch.tensor(row).isfinite().sum().item() for row in strategy.seen]
        count = len(strategy.seen[0])
        assert finite == [count, count, count - 1]


def test_a_step_with_infinite_gradients_has_torchs_meaning(tmp_path) -> None:
    """As the Trainer's own clip has it: finite gradients become 0, infinite ones NaN."""
    wanted = trained(tmp_path, Explode(), max_steps=4)
    found = trained(tmp_path, Explode(), GradhelmCallback(mode="disabled"), max_steps=4)
    assert any(p.isnan().any() for p in found.model.parameters())
    assert bits(found.model) == bits(wanted.model)


def test_with_no_threshold_anywhere_gradients_are_only_watched(server: Running, tmp_path) -> None:
    wanted = trained(tmp_path, max_grad_norm=0)
    callback = to(server, name="watched")
    found = trained(tmp_path, callback, max_grad_norm=0)
    assert bits(found.model) == bits(wanted.model)
    assert callback.run is not None
    assert callback.run.threshold is None
    told = series(server, callback.run.id, "global_norm")["global_norm"]["mean"]
    assert told == pytest.approx(norms(found), rel=1e-6)


def test_what_the_trainer_knows_and_logs_arrives(server: Running, tmp_path) -> None:
    callback = to(server, project="integrations", tags=["t"], config={"extra": 1})
    trainer = make(tmp_path, callback, run_name="a trainer's run")
    trainer.args.eval_strategy, trainer.args.eval_steps = "steps", 5
    trainer.eval_dataset = Text()
    trainer.train()
    (found,) = runs_named(server, "a trainer's run")
    assert callback.run is not None
    assert found["id"] == callback.run.id
    found = server.get(f"runs/{found['id']}")
    assert (found["status"], found["steps"], found["project"]) == ("finished", 10, "integrations")
    assert found["tags"] == ["t"]
    config = found["config"]
    assert (config["max_grad_norm"], config["total_steps"], config["extra"]) == (CODED, 10, 1)
    assert config["learning_rate"] == 1e-2
    told = series(server, found["id"], "loss,eval_loss,learning_rate,grad_norm,global_norm,lr")
    history = trainer.state.log_history
    for name, where in (("loss", range(10)), ("eval_loss", [4, 9]), ("learning_rate", range(10))):
        assert told[name]["step"] == list(where)
        wanted = [entry[name] for entry in history if name in entry]
        assert told[name]["mean"] == pytest.approx(wanted, rel=1e-6)
    # The norm that the Trainer logs is the one before clipping, to the bit.
    assert told["grad_norm"]["mean"] == told["global_norm"]["mean"]


def test_saved_arguments_are_the_users_and_no_token_is_saved(server: Running, tmp_path) -> None:
    trained(tmp_path, to(server), save_strategy="steps", save_steps=5)
    checkpoint = tmp_path / "checkpoint-5"
    assert torch.load(checkpoint / "training_args.bin", weights_only=False).max_grad_norm == CODED
    for path in checkpoint.iterdir():
        assert server.token.encode() not in path.read_bytes(), path.name


@pytest.mark.parametrize("restore", [False, True], ids=["plain", "restored-callbacks"])
def test_a_checkpoint_goes_on_with_its_run(server: Running, tmp_path, restore: bool) -> None:
    name = f"resumed {restore}"
    options = {
        "save_strategy": "steps",
        "save_steps": 5,
        "run_name": name,
        "restore_callback_states_from_checkpoint": restore,
    }
    first = to(server, clip=PerParameterNorm(0.3), project="resumed")
    wanted = trained(tmp_path, first, **options)
    again = make(tmp_path, to(server, clip=PerParameterNorm(0.3), project="resumed"), **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    callback = next(c for c in again.callback_handler.callbacks if isinstance(c, GradhelmCallback))
    assert first.run is not None
    assert callback.run is not None
    assert callback.run.id == first.run.id
    assert bits(again.model) == bits(wanted.model)
    (found,) = runs_named(server, name)
    assert found["project"] == "resumed"
    assert found["strategy"] == "PerParameterNorm"
    told = series(server, found["id"], "global_norm")["global_norm"]
    assert told["step"] == list(range(10))


def test_a_threshold_edited_since_the_checkpoint_is_the_scripts(tmp_path) -> None:
    options = {"save_strategy": "steps", "save_steps": 5}
    trained(tmp_path, GradhelmCallback(mode="disabled"), **options)
    callback = GradhelmCallback(mode="disabled")
    again = make(tmp_path, callback, max_grad_norm=0.125, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert callback.run is not None
    assert (callback.run.step, callback.run.threshold) == (10, 0.125)


def test_another_strategy_since_the_checkpoint_starts_anew_in_the_same_run(
    tmp_path, caplog
) -> None:
    options = {"save_strategy": "steps", "save_steps": 5}
    first = GradhelmCallback(mode="disabled")
    trained(tmp_path, first, **options)
    callback = GradhelmCallback(clip=Value(0.25), mode="disabled")
    again = make(tmp_path, callback, **options)
    with caplog.at_level(logging.WARNING, "gradhelm"):
        again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert first.run is not None
    assert callback.run is not None
    assert (callback.run.id, callback.run.step) == (first.run.id, 10)
    assert callback.run.threshold == 0.25
    assert "the strategy starts anew" in caplog.text


def test_a_checkpoint_from_before_the_callback_begins_a_run_at_its_step(tmp_path) -> None:
    options = {"save_strategy": "steps", "save_steps": 5}
    wanted = trained(tmp_path, **options)
    callback = GradhelmCallback(mode="disabled")
    again = make(tmp_path, callback, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-5"))
    assert callback.run is not None
    assert callback.run.step == 10
    assert bits(again.model) == bits(wanted.model)
    saved = json.loads((tmp_path / "checkpoint-10" / "trainer_state.json").read_text())
    state = saved["stateful_callbacks"]["GradhelmCallback"]["attributes"]["saved"]
    assert state["run"]["run_id"] == callback.run.id


class Fail(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step == 3:
            raise RuntimeError("out of memory, say")


def test_after_a_training_that_raised_the_next_one_is_a_run_of_its_own(
    server: Running, tmp_path
) -> None:
    callback = to(server)
    trainer = make(tmp_path, callback, Fail(), run_name="raised")
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.train()
    trainer.remove_callback(Fail)
    trainer.train()
    statuses = {run["status"]: run["steps"] for run in runs_named(server, "raised")}
    assert statuses == {"failed": 3, "finished": 10}


def test_when_training_is_over_the_trainer_clips_again(tmp_path) -> None:
    """The optimizer is kept by a Trainer, and with it everything hooked to it."""

    def twice(*callbacks: TrainerCallback) -> list[bytes]:
        trainer = trained(tmp_path, *callbacks)
        trainer.remove_callback(GradhelmCallback)
        trainer.args.max_grad_norm = CODED / 5
        trainer.train()
        return bits(trainer.model)

    assert twice(GradhelmCallback(mode="disabled")) == twice()


def test_the_next_training_begins_with_the_scripts_threshold(tmp_path) -> None:
    callback = GradhelmCallback(clip=GlobalNorm(CODED), mode="disabled")
    trainer = trained(tmp_path, callback)
    callback._asked.options["clip"].set(max_norm=0.1)  # as a change from outside would
    trainer.train()
    assert callback.run is not None
    assert callback.run.threshold == CODED


SCRIPT = """
import sys
sys.path[:0] = sys.argv[1:3]
from pathlib import Path
from oracles.test_transformers import Fail, GradhelmCallback, make
trainer = make(Path(sys.argv[3]), GradhelmCallback(), Fail(), run_name=sys.argv[4])
try:
    trainer.train()
except RuntimeError:
    if sys.argv[5] == "raise":
        raise
"""


@pytest.mark.parametrize("then", ["raise", "swallow"])
def test_a_process_that_ends_without_an_end_of_training_has_failed(
    program: Program, tmp_path, then: str
) -> None:
    """Whether the exception ended it or was swallowed: training never came to its end."""
    program.start()
    tests = Path(__file__).resolve().parents[1]
    arguments = [str(tests), str(tests / "server"), str(tmp_path), "half a training", then]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        env=program.environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == (then == "raise"), done.stderr
    found = program.json("show", "half a training")
    assert (found["status"], found["steps"]) == ("failed", 3)
    if then == "raise":
        assert "out of memory" in found["status_reason"]


def test_an_argument_that_attach_does_not_have_is_refused_at_once() -> None:
    with pytest.raises(TypeError, match="attach has no argument max_nrom"):
        GradhelmCallback(max_nrom=1.0)


class Until(TrainerCallback):
    """Ends training when the person at the other machine is done."""

    def __init__(self, person) -> None:
        self.person = person

    def on_step_end(self, args, state, control, **kwargs) -> None:
        time.sleep(0.002)
        control.should_training_stop = self.person.done(state.global_step)


def test_a_threshold_set_from_outside_takes_hold_at_the_step_that_is_reported(
    server: Running, tmp_path
) -> None:
    callback = to(server, control=gradhelm.Control(min=0.01, max=1.0))
    with remote(server, "trainer steered") as person:
        trained(tmp_path, callback, Until(person), run_name="trainer steered", max_steps=100_000)
    person.check()
