"""How each logger is used: to log the norms of all layers at every step, and to read them again.

Each as its documentation has it, local, with everything else that it might do by itself switched
off. Nothing but the standard library is imported before a logger is made, since each lives in an
environment of its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

Values = Mapping[str, float]


class Contender:
    """A logger that writes into ``folder``. ``series`` and ``table`` answer how many values came."""

    requires: ClassVar[tuple[str, ...]] = ()
    reads: ClassVar[str] = ""
    """What it is read by; empty when it has no way to read what it wrote without its service."""
    reads_while_open: ClassVar[bool] = False
    keeps: ClassVar[bool] = True
    """Whether it keeps what can be asked for; else it writes text for somebody else to parse."""
    counts: ClassVar[bool] = True
    """Whether its points can be counted: one value a column and step."""

    def __init__(self, folder: Path, **_: Any) -> None:
        self.folder = folder

    def log(self, step: int, values: Values) -> None:
        raise NotImplementedError

    def step(self, number: int, model: Any) -> None:
        """Clip as one does without gradhelm, and log the norms. One pass over the gradients and one
        wait for all norms together, which is as lean as it can be written by hand.
        """
        import torch

        names, parameters = zip(*model.named_parameters(), strict=True)
        norms = torch.stack(torch._foreach_norm([p.grad for p in parameters])).tolist()
        total = torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        self.log(number, {"global_norm": total.item(), **dict(zip(names, norms, strict=True))})

    def watch(self, model: Any) -> None:
        """Called once before the first step."""

    def begin(self, model: Any) -> None:
        """Called before each block of steps that is logged."""

    def pause(self, model: Any) -> None:
        """Called after it: what it has put into the model must not burden the steps without it."""

    def told(self) -> dict[str, float]:
        """What it says of its own cost, after the last step."""
        return {}

    def finish(self) -> None:
        """Everything is on disk when this returns."""

    def series(self, column: str) -> int:
        """Reads every value of one column."""
        raise NotImplementedError

    def table(self, columns: Sequence[str], points: int, salt: int) -> int:
        """Reads many columns at about ``points`` each; ``salt`` keeps caches out of it."""
        raise NotImplementedError


class Gradhelm(Contender):
    """Only clips and reports: it is read over REST, see reads.py."""

    def watch(self, model: Any) -> None:
        import gradhelm

        self._run = gradhelm.attach(model, max_norm=1.0, name="bench")

    def step(self, number: int, model: Any) -> None:
        self._run.clip()

    def told(self) -> dict[str, float]:
        return self._stats

    def finish(self) -> None:
        self._stats = dict(self._run.stats())
        self._run.close()


class TensorBoard(Contender):
    requires = ("tensorboard", "setuptools<81")
    reads = "EventAccumulator"

    def __init__(self, folder: Path, **_: Any) -> None:
        from torch.utils.tensorboard import SummaryWriter

        super().__init__(folder)
        self._writer = SummaryWriter(str(folder))

    def log(self, step: int, values: Values) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def finish(self) -> None:
        self._writer.close()

    def _events(self) -> Any:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        return EventAccumulator(str(self.folder), {"scalars": 0}).Reload()

    def series(self, column: str) -> int:
        return len([(event.step, event.value) for event in self._events().Scalars(column)])

    def table(self, columns: Sequence[str], points: int, salt: int) -> int:
        # Its own way to a bounded number of points is to sample while reading.
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(self.folder), {"scalars": points}).Reload()
        return sum(len(events.Scalars(column)) for column in columns)


class Wandb(Contender):
    requires = ("wandb",)

    def __init__(self, folder: Path, **_: Any) -> None:
        os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
        import wandb

        super().__init__(folder)
        settings = wandb.Settings(x_disable_stats=True, x_disable_meta=True, console="off")
        self._run = wandb.init(project="bench", dir=str(folder), settings=settings)

    def log(self, step: int, values: Values) -> None:
        self._run.log(values, step=step)

    def finish(self) -> None:
        self._run.finish()


class WandbWatch(Wandb):
    """A histogram of each layer's gradient, which is what watching means there."""

    counts = False

    def begin(self, model: Any) -> None:
        self._run.watch(model, log="gradients", log_freq=1)

    def pause(self, model: Any) -> None:
        self._run.unwatch(model)

    def step(self, number: int, model: Any) -> None:
        import torch

        total = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        self.log(number, {"global_norm": total.item()})


class Trackio(Contender):
    requires = ("trackio",)
    reads = "SQLiteStorage, what its page asks"

    def __init__(self, folder: Path, **_: Any) -> None:
        os.environ["TRACKIO_DIR"] = str(folder)
        import trackio

        super().__init__(folder)
        self._trackio = trackio
        trackio.init(project="bench", name="bench", auto_log_cpu=False, auto_log_gpu=False)

    def log(self, step: int, values: Values) -> None:
        self._trackio.log(dict(values), step=step)

    def finish(self) -> None:
        self._trackio.finish()

    def series(self, column: str) -> int:
        from trackio.sqlite_storage import SQLiteStorage

        return len(SQLiteStorage.get_metric_values("bench", "bench", column))

    def table(self, columns: Sequence[str], points: int, salt: int) -> int:
        from trackio.sqlite_storage import SQLiteStorage

        rows = SQLiteStorage.get_logs("bench", "bench", max_points=points + salt)
        return sum(sum(column in row for column in columns) for row in rows)


class MLflow(Contender):
    requires = ("mlflow",)
    reads = "MlflowClient and its store"

    def __init__(self, folder: Path, **_: Any) -> None:
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
        import mlflow

        super().__init__(folder)
        mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
        self._mlflow, self._run = mlflow, mlflow.start_run()

    def log(self, step: int, values: Values) -> None:
        self._mlflow.log_metrics(values, step=step)

    def finish(self) -> None:
        self._mlflow.end_run()

    def series(self, column: str) -> int:
        client = self._mlflow.MlflowClient()
        return len(client.get_metric_history(self._run.info.run_id, column))

    def table(self, columns: Sequence[str], points: int, salt: int) -> int:
        from mlflow.tracking._tracking_service.utils import _get_store

        store, run = _get_store(), self._run.info.run_id
        return sum(
            len(store.get_metric_history_bulk_interval([run], column, points, None, None))
            for column in columns
        )


class SwanLab(Contender):
    requires = ("swanlab",)

    def __init__(self, folder: Path, **_: Any) -> None:
        import swanlab

        super().__init__(folder)
        self._swanlab = swanlab
        swanlab.init(project="bench", mode="offline", log_dir=str(folder))

    def log(self, step: int, values: Values) -> None:
        self._swanlab.log(dict(values), step=step)

    def finish(self) -> None:
        self._swanlab.finish()


class Aim(Contender):
    requires = ("aim",)
    reads = "Run.get_metric"
    reads_while_open = True

    def __init__(self, folder: Path, **_: Any) -> None:
        import aim

        super().__init__(folder)
        self._run = aim.Run(
            repo=str(folder), system_tracking_interval=None, capture_terminal_logs=False
        )

    def log(self, step: int, values: Values) -> None:
        self._run.track(dict(values), step=step)

    def finish(self) -> None:
        self._run.close()

    def series(self, column: str) -> int:
        from aim.storage.context import Context

        return len(self._run.get_metric(column, Context({})).values.sparse_numpy()[0])

    def table(self, columns: Sequence[str], points: int, salt: int) -> int:
        return sum(self.series(column) for column in columns)


class Comet(Contender):
    requires = ("comet-ml",)

    def __init__(self, folder: Path, **_: Any) -> None:
        os.environ["COMET_LOGGING_CONSOLE"] = "ERROR"
        import comet_ml

        super().__init__(folder)
        self._experiment = comet_ml.OfflineExperiment(
            project_name="bench",
            offline_directory=str(folder),
            log_code=False,
            log_graph=False,
            auto_output_logging="",
            log_env_details=False,
            log_git_metadata=False,
            display_summary_level=0,
        )

    def log(self, step: int, values: Values) -> None:
        self._experiment.log_metrics(dict(values), step=step)

    def finish(self) -> None:
        self._experiment.end()


class DVCLive(Contender):
    requires = ("dvclive",)
    keeps = False

    def __init__(self, folder: Path, **_: Any) -> None:
        os.environ["DVC_NO_ANALYTICS"] = "1"
        import dvclive

        super().__init__(folder)
        self._live = dvclive.Live(
            str(folder / "dvclive"), save_dvc_exp=False, report=None, dvcyaml=None
        )

    def log(self, step: int, values: Values) -> None:
        for name, value in values.items():
            self._live.log_metric(name, value)
        self._live.next_step()

    def finish(self) -> None:
        self._live.end()


class LightningCSV(Contender):
    """Lightning's own grad_norm, and its CSV logger flushed as a Trainer does by default."""

    requires = ("lightning",)
    keeps = False
    FLUSH = 100

    def __init__(self, folder: Path, **_: Any) -> None:
        from lightning.pytorch.loggers import CSVLogger

        super().__init__(folder)
        self._logger = CSVLogger(str(folder))

    def log(self, step: int, values: Values) -> None:
        self._logger.log_metrics(dict(values), step)
        if step % self.FLUSH == self.FLUSH - 1:
            self._logger.save()

    def step(self, number: int, model: Any) -> None:
        import torch
        from lightning.pytorch.utilities import grad_norm

        norms = {name: float(value) for name, value in grad_norm(model, norm_type=2).items()}
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        self.log(number, norms)

    def finish(self) -> None:
        self._logger.finalize("success")


CONTENDERS: dict[str, type[Contender]] = {
    "gradhelm": Gradhelm,
    "trackio": Trackio,
    "wandb.log, offline": Wandb,
    "SwanLab, offline": SwanLab,
    "TensorBoard": TensorBoard,
    "Aim": Aim,
    "MLflow, SQLite": MLflow,
    "Comet, offline": Comet,
    "DVCLive": DVCLive,
    "Lightning grad_norm, CSV": LightningCSV,
    "wandb.watch(log_freq=1)": WandbWatch,
}
