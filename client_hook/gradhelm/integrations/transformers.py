"""The Hugging Face Trainer: ``Trainer(..., callbacks=[GradhelmCallback()])``.

Law: while a run clips, the Trainer does not. Its arguments stay what the user made them: the
Trainer goes on asking for its clip and is given the norm (see :mod:`.accelerate`, by which it
clips).
"""

from __future__ import annotations

import atexit
import sys
import weakref
from collections.abc import Mapping
from numbers import Real
from typing import Any, ClassVar

import torch
from torch import Tensor, nn, optim

from ..clip import GlobalNorm
from ..run import Run
from ..wire import MAX_NAME
from . import Asked

try:
    from transformers import TrainerCallback
    from transformers.trainer_callback import ExportableState
except ModuleNotFoundError as error:
    if error.name != "transformers":
        raise
    raise ImportError(
        "gradhelm.integrations.transformers needs Hugging Face Transformers: "
        "pip install transformers accelerate"
    ) from None

from . import accelerate


class GradhelmCallback(TrainerCallback, ExportableState):
    """Clips and watches what a Trainer trains.

    max_norm, clip, options: as :func:`gradhelm.attach` has them. With neither ``max_norm`` nor
    ``clip`` the threshold is ``args.max_grad_norm``; when that is 0 the gradients are only watched.
    The name defaults to ``args.run_name``, the configuration to all training arguments. What the
    Trainer logs is logged; a checkpoint holds the run's state, and ``resume_from_checkpoint``
    goes on with that run.

    run: the newest run, None before training. restored: for the Trainer's own use.
    """

    _newest: ClassVar[weakref.ref[GradhelmCallback] | None] = None

    def __init__(
        self,
        *,
        max_norm: float | None = None,
        clip: Any = None,
        restored: bool = False,
        **options: Any,
    ) -> None:
        given = GradhelmCallback._newest
        replaced = given() if restored and given is not None else None
        asked = Asked(max_norm, clip, options)
        self._asked: Asked = asked if replaced is None else replaced._asked
        GradhelmCallback._newest = weakref.ref(self)

    @property
    def run(self) -> Run | None:
        return self._asked.run

    def on_train_begin(
        self,
        args: Any,
        state: Any,
        control: Any,
        model: nn.Module | None = None,
        optimizer: optim.Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        assert model is not None
        assert optimizer is not None
        self._end("failed")
        asked, plain = self._asked, accelerate.plain(optimizer)
        key = type(self).__name__
        # The Trainer's state has what the checkpoint had; at step 0 it was not read from one.
        saved = _saved(state.stateful_callbacks.get(key)) if state.global_step else None
        name = state.trial_name or args.run_name
        known = {"name": name[:MAX_NAME]} if name and name.isprintable() else {}
        asked.attach(
            model,
            plain,
            GlobalNorm(args.max_grad_norm) if args.max_grad_norm else None,
            {**args.to_dict(), "total_steps": state.max_steps},
            saved,
            start_step=state.global_step,
            **known,
        )
        accelerate.take_over(plain, clips=asked.clips)
        # The Trainer looks for an entry when it saves; a checkpoint from before has none.
        state.stateful_callbacks.setdefault(key, self.state())
        atexit.register(self._at_exit)

    def on_log(
        self,
        args: Any,
        state: Any,
        control: Any,
        logs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self._asked.log({k: v for k, v in (logs or {}).items() if isinstance(v, (Real, Tensor))})

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._end("finished")

    def state(self) -> dict[str, Any]:
        """What the Trainer writes into a checkpoint's ``trainer_state.json``.

        With ``restore_callback_states_from_checkpoint`` it makes a new callback of ``args`` in the
        place of the script's own, whose arguments (a token among them) do not belong into a file.
        """
        return {"args": {"restored": True}, "attributes": {"saved": _plain(self._asked.state())}}

    def _end(self, status: str) -> None:
        atexit.unregister(self._at_exit)
        self._asked.end(status)

    def _at_exit(self) -> None:
        # The Trainer tells nobody of an exception, but this training never came to its end. If the
        # exception is what ends the process, the run knows better what to say of it.
        if getattr(sys, "last_value", None) is None:
            self._end("failed")


def _saved(entry: Any) -> dict[str, Any] | None:
    """The state in a checkpoint's entry, which is a list where there were several callbacks."""
    if isinstance(entry, list):
        entry = entry[-1] if entry else None
    found = _tensors((entry or {}).get("attributes", {}).get("saved"))
    return found if isinstance(found, dict) else None


def _plain(value: Any) -> Any:
    """``value`` as JSON has it; a tensor as its numbers and their type."""
    if isinstance(value, Tensor):
        return {"tensor": value.tolist(), "dtype": str(value.dtype).removeprefix("torch.")}
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value


def _tensors(value: Any) -> Any:
    """What :func:`_plain` made plain."""
    if isinstance(value, Mapping):
        if value.keys() == {"tensor", "dtype"}:
            return torch.tensor(value["tensor"], dtype=getattr(torch, value["dtype"]))
        return {key: _tensors(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_tensors(one) for one in value]
    return value
