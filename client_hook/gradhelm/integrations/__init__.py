"""Training frameworks: the one line for a script whose loop is somebody else's.

Law: nothing here is imported by ``import gradhelm``, and no module here imports another framework
than its own. What a callback is given goes to :func:`gradhelm.attach`; what it is not given the
framework is asked for.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Final

from torch import nn

from ..clip import GlobalNorm, Strategy
from ..hook import attach
from ..notice import logger
from ..run import Run

_KEYWORDS: Final = frozenset(inspect.signature(attach).parameters) - {"model", "optimizer"}


class Asked:
    """What a script asked of a callback, and the run that came of it.

    max_norm, clip, options: arguments of :func:`gradhelm.attach`. Raises TypeError for an option
    that it does not have: a training may be long in preparation.
    """

    def __init__(self, max_norm: float | None, clip: Any, options: Mapping[str, Any]) -> None:
        unknown = ", ".join(sorted(options.keys() - _KEYWORDS))
        if unknown:
            raise TypeError(f"gradhelm.attach has no argument {unknown}")
        if max_norm is not None:
            options = {**options, "max_norm": max_norm}
        if clip is not None:
            options = {**options, "clip": clip}
        self.options: Final = dict(options)
        self.run: Run | None = None
        self.clips = False
        # The values in the script: a strategy's own move when somebody sets them.
        self._coded = clip.parameters if isinstance(clip, Strategy) else None

    def attach(
        self,
        model: nn.Module,
        optimizer: Any,
        own: Strategy | None,
        config: Mapping[str, Any],
        saved: Mapping[str, Any] | None,
        **known: Any,
    ) -> Run:
        """Begins a run, or goes on with the one that was ``saved`` in a checkpoint.

        own: how the framework would clip. config, known: what it knows about the training; what the
        script says wins. A run that is still open belongs to a training that never came to its end.
        """
        self.end("failed")
        options = {**known, **self.options}
        options["config"] = {**config, **(self.options.get("config") or {})}
        if options.get("max_norm") is None and options.get("clip") is None:
            options["clip"] = own
        elif options.get("clip") is None:
            options["clip"] = GlobalNorm(options.pop("max_norm"))
        clip = options["clip"]
        scripts_own = clip is self.options.get("clip")
        if isinstance(clip, Strategy):
            if scripts_own and self._coded is not None:
                clip.reset(self._coded)
            self._coded = clip.parameters
        if saved is not None and "run_id" not in self.options:
            options |= {"run_id": saved["run"]["run_id"], "resume": True}
        run = attach(model, optimizer, **options)
        self.run, self.clips = run, clip is not None
        if saved is not None:
            self._load(run, clip, saved)
        return run

    def _load(self, run: Run, clip: Any, saved: Mapping[str, Any]) -> None:
        coded = self._coded
        try:
            run.load_state_dict(saved["run"])
        except ValueError as error:
            logger.warning("the strategy starts anew: %s", error)
            return
        if coded is not None and coded != saved["coded"]:
            # Since the checkpoint somebody has edited the script.
            clip.reset(coded)

    def state(self) -> dict[str, Any] | None:
        """What a checkpoint needs for :meth:`attach` to go on; None before the first run."""
        if self.run is None:
            return None
        return {"run": self.run.state_dict(), "coded": self._coded}

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Tells metrics about the step last taken."""
        if self.run is not None:
            self.run.log(**metrics)

    def end(self, status: str | BaseException = "finished") -> None:
        """Closes the run, if there is one, and gives clipping back to the framework.

        status: as ``Run.close`` has it, or what ended the training.
        """
        if self.run is None:
            return
        self.run.detach()
        if isinstance(status, str):
            self.run.close(status)
        else:
            self.run.__exit__(type(status), status, status.__traceback__)
