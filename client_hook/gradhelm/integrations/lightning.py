"""Lightning: ``Trainer(..., callbacks=[GradhelmCallback()])``.

Law: while a run clips, Lightning does not: neither by ``Trainer(gradient_clip_val=...)`` nor by
``self.clip_gradients``. The run clips inside ``optimizer.step()``, after the closure that Lightning
hands to it: the same place for every precision, accumulation, and manual optimization.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import Any

from torch import Tensor

from ..clip import GlobalNorm, Strategy, Value
from ..notice import logger
from ..run import Run
from . import Asked


def _installed() -> Any:
    """``lightning.pytorch`` or ``pytorch_lightning``: what the script uses, else what there is."""
    names = ("lightning.pytorch", "pytorch_lightning")
    for name in names:
        used = sys.modules.get(name)
        if used is not None:
            return used
    for name in names:
        try:
            return import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in (name, name.partition(".")[0]):
                raise
    raise ImportError("gradhelm.integrations.lightning needs Lightning: pip install lightning")


_pl: Any = _installed()


class GradhelmCallback(_pl.Callback):
    """Clips and watches what a Lightning Trainer fits.

    max_norm, clip, options: as :func:`gradhelm.attach` has them. With neither ``max_norm`` nor
    ``clip`` the Trainer's ``gradient_clip_val`` and ``gradient_clip_algorithm`` say how to clip;
    without them the gradients are only watched. The configuration is the module's ``hparams``.
    What ``self.log`` is told is logged; a checkpoint holds the run's state, and
    ``fit(ckpt_path=...)`` goes on with that run.

    run: the newest run, None before training.
    """

    def __init__(self, *, max_norm: float | None = None, clip: Any = None, **options: Any) -> None:
        self._asked = Asked(max_norm, clip, options)
        self._saved: dict[str, Any] | None = None
        self._told: dict[str, Tensor] = {}
        self._precision: Any = None

    @property
    def run(self) -> Run | None:
        return self._asked.run

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if isinstance(
            trainer.strategy, (_pl.strategies.FSDPStrategy, _pl.strategies.DeepSpeedStrategy)
        ):
            kind = type(trainer.strategy).__name__
            raise ValueError(
                f"gradhelm cannot clip under {kind}: no process has the whole gradients"
            )
        self._end("failed")
        optimizers = trainer.optimizers
        config = dict(pl_module.hparams)
        with suppress(_pl.utilities.exceptions.MisconfigurationException):
            steps = trainer.estimated_stepping_batches
            if 0 < steps < float("inf"):
                config["total_steps"] = int(steps)
        self._asked.attach(
            pl_module,
            optimizers[0] if len(optimizers) == 1 else optimizers,
            _own(trainer),
            config,
            self._saved,
            # Lightning counts the steps of all optimizers together.
            start_step=trainer.global_step if len(optimizers) == 1 else 0,
        )
        self._saved = None
        self._take_over(trainer.precision_plugin)

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self._tell(trainer)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self._tell(trainer)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self._tell(trainer)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._end("finished")

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        self._end(exception)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        self._end("stopped")

    def state_dict(self) -> dict[str, Any]:
        return self._asked.state() or {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved = state_dict or None

    def _tell(self, trainer: Any) -> None:
        """Logs the metrics that are new: Lightning keeps the old ones beside them.

        A new value is a new tensor. That its memory is another one is certain, for the old one is
        kept here.
        """
        new = {
            name: value
            for name, value in trainer.callback_metrics.items()
            if name not in self._told or value.data_ptr() != self._told[name].data_ptr()
        }
        self._told |= new
        self._asked.log(new)

    def _take_over(self, precision: Any) -> None:
        """Everything in Lightning that clips ends up at ``clip_gradients`` of the precision."""
        clip_gradients: Callable[..., None] = precision.clip_gradients
        clips, told = self._asked.clips, False

        def left_to_the_run(optimizer: Any, clip_val: float = 0.0, *args: Any, **kw: Any) -> None:
            nonlocal told
            if clips:
                return
            if clip_val > 0 and not told:
                told = True
                logger.warning(
                    "Lightning clips before gradhelm looks: the norms shown are those after it; "
                    "give GradhelmCallback a max_norm to see, and to steer, the clip itself"
                )
            clip_gradients(optimizer, clip_val, *args, **kw)

        precision.clip_gradients = left_to_the_run
        self._precision = precision

    def _end(self, status: str | BaseException) -> None:
        if self._precision is None:
            return
        del self._precision.clip_gradients  # what hid the class's own
        self._precision = None
        self._told = {}
        self._asked.end(status)


def _own(trainer: Any) -> Strategy | None:
    """How Lightning itself would clip."""
    value = trainer.gradient_clip_val
    if not value:
        return None
    return Value(value) if trainer.gradient_clip_algorithm == "value" else GlobalNorm(value)
