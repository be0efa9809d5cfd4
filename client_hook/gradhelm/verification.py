"""``verify``: watches some steps of a training loop and says what is wrong with its clipping.

Law: it looks and never touches. Torch's own functions are wrapped while it watches, and are put
back when it has seen enough; what the loop computes stays the same.
"""

from __future__ import annotations

import functools
import json
import math
import os
import runpy
import sys
import traceback
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, optim

from . import stepper
from .clip import Strategy
from .clip.sharded import local
from .notice import logger
from .run import Run
from .steps import before_each

STEPS: Final = 20
_CLIPS: Final = ("clip_grad_norm_", "clip_grad_value_", "clip_grads_with_norm_")
_OURS: Final = os.path.dirname(os.path.abspath(__file__)) + os.sep
_TORCH: Final = os.path.dirname(os.path.abspath(torch.__file__)) + os.sep


class Finding(NamedTuple):
    """One thing that is wrong: what, where in the script (file:line), and how to mend it."""

    kind: str
    what: str
    mend: str
    where: str = ""

    def __str__(self) -> str:
        where = f" ({self.where})" if self.where else ""
        return f"{self.what}{where}\n   {self.mend}"


@dataclass
class _Clip:
    """One call of a clip function since the last step.

    left: which gradients it left behind, and in which version.
    """

    held: list[Tensor]
    backwards: int
    where: str
    ours: bool
    scaled: bool
    empty: bool
    left: list[tuple[int, int]] = field(default_factory=list)

    @property
    def parameters(self) -> frozenset[int]:
        return frozenset(map(id, self.held))


@dataclass
class Verification:
    """What :func:`verify` returns: fills while the loop runs; ``print`` it when it is done.

    findings: what is wrong, each once. steps: optimizer steps seen. done: whether it still watches.
    """

    wanted: int = STEPS
    steps: int = 0
    done: bool = False
    findings: list[Finding] = field(default_factory=list)

    def __str__(self) -> str:
        steps = "1 step" if self.steps == 1 else f"{self.steps} steps"
        if not self.steps and not self.findings:
            return "no optimizer step was seen; call verify before the training loop"
        if not self.findings:
            return f"{steps} watched: nothing wrong with the clipping"
        count = "1 finding" if len(self.findings) == 1 else f"{len(self.findings)} findings"
        told = "\n".join(f"{n}. {finding}" for n, finding in enumerate(self.findings, 1))
        return f"{steps} watched, {count}:\n{told}"


def verify(run: Run, steps: int = STEPS) -> Verification:
    """Watches the next ``steps`` optimizer steps: ``check = gradhelm.verify(run)``, then train.

    Finds double clipping, clipping before the backward pass, gradients that are clipped while a
    GradScaler's scale is on them, and optimizers that share parameters; says it once in the log
    when it is done, or whenever ``check`` is printed. Costs a function call for each backward pass
    and step while it watches, and nothing afterwards.

    Raises TypeError or ValueError for what is no run, and for less than one step.
    """
    if not isinstance(run, Run):
        raise TypeError(f"run must be what attach returned, not {type(run).__name__}")
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise TypeError(f"steps must be an int, not {type(steps).__name__}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, not {steps}")
    check = Verification(steps)
    watcher = _Watcher(check, tell=True)
    for one in stepper.attached(run.id):
        watcher.meet(one)
    watcher.begin()
    return check


class _Watcher:
    """The wrapped functions, and what they have seen."""

    def __init__(self, check: Verification, *, tell: bool) -> None:
        self.check = check
        self._tell = tell
        # What to raise in the loop when enough was seen; None to let it go on.
        self.enough: type[SystemExit] | None = None
        self._backwards = 0
        self._clips: list[_Clip] = []
        # Parameter -> the optimizers that step it.
        self._owners: dict[int, weakref.WeakSet[optim.Optimizer]] = {}
        self._known: weakref.WeakSet[optim.Optimizer] = weakref.WeakSet()
        # Optimizers whose gradients carry a scaler's scale now.
        self._scaling = False
        self._unscaled: set[int] = set()

    def begin(self) -> None:
        """Watches from here on."""
        if not _watchers:
            _wrap_all()
        _watchers.append(self)

    def end(self) -> None:
        """Watches no more; the last one to end puts torch's own functions back."""
        _watchers.remove(self)
        if not _watchers:
            while _undo:
                _undo.pop()()
        self.check.done = True
        if self._tell:
            (logger.warning if self.check.findings else logger.info)("verify: %s", self.check)

    # -- what happens in the loop -----------------------------------------------------------------

    def backward(self) -> None:
        self._backwards += 1

    def scale(self, scaler: torch.amp.GradScaler) -> None:
        self._scaling = scaler.is_enabled()

    def unscale(self, optimizer: optim.Optimizer) -> None:
        self._unscaled.add(id(optimizer))

    def clip(self, held: list[Tensor], where: str, *, ours: bool) -> None:
        identities = set(map(id, held))
        owners = {id(o) for o in self._known if identities & _held(o)}
        scaled = self._scaling and not (owners & self._unscaled if owners else self._unscaled)
        empty = all(p.grad is None for p in held)
        self._clips.append(_Clip(held, self._backwards, where, ours, scaled, empty))

    def clipped(self) -> None:
        """The clip told last is done."""
        if self._clips:
            self._clips[-1].left = _versions(self._clips[-1].held)

    def meet(self, optimizer: optim.Optimizer) -> None:
        """Looks at an optimizer for the first time."""
        if optimizer in self._known:
            return
        self._known.add(optimizer)
        for identity in _held(optimizer):
            owners = self._owners.setdefault(identity, weakref.WeakSet())
            # A wrapper and what it wraps have the same groups: they are one optimizer.
            others = [o for o in owners if o.param_groups is not optimizer.param_groups]
            if others:
                names = " and ".join(sorted(type(o).__name__ for o in (optimizer, *others)))
                self._found(
                    "shared",
                    f"two optimizers ({names}) step the same parameters",
                    "Give each parameter to one optimizer: otherwise it is clipped and stepped by "
                    "both, and neither norm is the true one.",
                )
            owners.add(optimizer)

    def step(self, optimizer: optim.Optimizer) -> None:
        self.meet(optimizer)
        held = _held(optimizer)
        mine = [clip for clip in self._clips if clip.parameters & held]
        self._clips = [clip for clip in self._clips if not clip.parameters & held]
        for clip in mine:
            self._judge(clip)
        self._judge_together(mine, optimizer)
        self._unscaled.discard(id(optimizer))
        self.check.steps += 1
        if self.check.steps >= self.check.wanted:
            self.end()
            if self.enough is not None:
                raise self.enough(0)

    def _judge(self, clip: _Clip) -> None:
        if clip.scaled:
            self._found(
                "scaled",
                "gradients are clipped while the GradScaler's scale is on them",
                "Call scaler.unscale_(optimizer) before clipping, or attach with the optimizer: "
                "then gradhelm unscales first. A threshold on scaled gradients means another one "
                "each time the scale changes.",
                clip.where,
            )
        if clip.empty:
            self._found(
                "before_backward",
                "the clip is called when there are no gradients",
                "Clip after loss.backward() and before optimizer.step().",
                clip.where,
            )

    def _judge_together(self, clips: list[_Clip], optimizer: optim.Optimizer) -> None:
        attached = stepper.is_attached(optimizer)
        # Not every backward pass is for these parameters.
        late = [
            clip
            for clip in clips
            if clip.backwards < self._backwards and clip.left != _versions(clip.held)
        ]
        by_hand = [clip for clip in clips if not clip.ours]
        several = sum(len(clip.parameters) for clip in clips)
        twice = several > len(frozenset[int]().union(*(clip.parameters for clip in clips)))
        if by_hand and stepper.only_watches(optimizer):
            self._found(
                "watched_late",
                "gradients are clipped by hand before the attached run looks at them",
                "Give attach a max_norm and take the clip out of the loop: then the norms shown "
                "are those before clipping, and the threshold can be steered.",
                by_hand[0].where,
            )
        elif attached and by_hand:
            self._found(
                "double",
                "gradients are clipped twice: by hand, and by the attached run",
                "Take the clip out of the loop: the run clips inside optimizer.step(), and records "
                "what was left by the first clip otherwise.",
                by_hand[0].where,
            )
        elif twice and len(late) < len(clips):
            self._found(
                "double",
                f"gradients are clipped {len(clips)} times before one step",
                "Clip once, right before optimizer.step(); with gradient accumulation after the "
                "last backward pass.",
                clips[-1].where,
            )
        if late and len(late) == len(clips) and not attached and not clips[-1].empty:
            self._found(
                "before_backward",
                "a backward pass follows the clip: what it adds is not clipped",
                "Clip after the last loss.backward() and before optimizer.step().",
                clips[-1].where,
            )

    def _found(self, kind: str, what: str, mend: str, where: str = "") -> None:
        finding = Finding(kind, what, mend, where)
        if finding not in self.check.findings:
            self.check.findings.append(finding)


_watchers: list[_Watcher] = []
_undo: list[Callable[[], None]] = []


def _wrap_all() -> None:
    """Wraps what tells of a loop's backward passes, clips, scales and steps."""
    for name in _CLIPS:
        original = getattr(torch.nn.utils, name)
        watched = _clipping(original)
        # Under every name by which a module knows it already.
        for module in list(sys.modules.values()):
            for known, value in list(getattr(module, "__dict__", {}).items()):
                # Those beginning with _ are torch's own: one clip calls another by them.
                if value is original and not known.startswith("_"):
                    _replace(module, known, watched)
    backward = torch.autograd.backward
    _replace(torch.autograd, "backward", _calling(backward, lambda w, *_, **__: w.backward()))
    scaler = torch.amp.GradScaler
    _replace(scaler, "scale", _calling(scaler.scale, lambda w, s, *_, **__: w.scale(s)))
    unscale = _calling(scaler.unscale_, lambda w, s, optimizer: w.unscale(optimizer))
    _replace(scaler, "unscale_", unscale)
    _replace(Run, "clip", _run_clip(Run.clip))
    _replace(Strategy, "__call__", _strategy_call(Strategy.__call__))
    _undo.append(before_each(_stepping))


def _replace(owner: Any, name: str, function: Callable[..., Any]) -> None:
    _undo.append(functools.partial(setattr, owner, name, getattr(owner, name)))
    setattr(owner, name, function)


def _calling(original: Callable[..., Any], tell: Callable[..., None]) -> Callable[..., Any]:
    @functools.wraps(original)
    def watched(*args: Any, **kwargs: Any) -> Any:
        for watcher in tuple(_watchers):
            tell(watcher, *args, **kwargs)
        return original(*args, **kwargs)

    return watched


def _clipping(original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def watched(parameters: Any, *args: Any, **kwargs: Any) -> Any:
        # What may be a generator is gone through here, and given on as a list.
        held = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        limit = args[0] if args else kwargs.get("max_norm", kwargs.get("clip_value"))
        if limit == math.inf:  # the usual way to measure a norm
            return original(held, *args, **kwargs)
        return _told(held, lambda: original(held, *args, **kwargs), ours=False)

    return watched


def _run_clip(original: Callable[[Run], Tensor]) -> Callable[[Run], Tensor]:
    @functools.wraps(original)
    def watched(run: Run) -> Tensor:
        if all(stream.only_watches for stream in run.streams.values()):
            return original(run)
        return _told(_of(run), lambda: original(run), ours=True)

    return watched


def _strategy_call(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(original)
    def watched(strategy: Strategy, parameters: Any, *args: Any, **kwargs: Any) -> Tensor:
        held = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        return _told(held, lambda: original(strategy, held, *args, **kwargs), ours=False)

    return watched


def _told(held: list[Tensor], clip: Callable[[], Tensor], *, ours: bool) -> Tensor:
    """Tells the watchers of ``clip`` before and after it is called."""
    where = _caller()
    for watcher in tuple(_watchers):
        watcher.clip(held, where, ours=ours)
    result = clip()
    for watcher in tuple(_watchers):
        watcher.clipped()
    return result


def _stepping(optimizer: optim.Optimizer) -> None:
    for watcher in tuple(_watchers):
        watcher.step(optimizer)


def _versions(held: list[Tensor]) -> list[tuple[int, int]]:
    """Which gradients there are; each writing to one makes another version of it."""
    # Of a sharded one this rank's shard is what is written to.
    return [(id(p.grad), local(p.grad)._version) for p in held if p.grad is not None]


def _of(run: Run) -> list[Tensor]:
    return [target.parameter for s in run.streams.values() for target in s.layout.targets]


def _held(optimizer: optim.Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


def _caller() -> str:
    """The place in the script, or in its framework, that called."""
    for frame, line in traceback.walk_stack(sys._getframe(1)):
        file = frame.f_code.co_filename
        if not file.startswith((_OURS, _TORCH)):
            return f"{os.path.relpath(file) if os.path.exists(file) else file}:{line}"
    return ""


# -- gradhelm doctor --script ---------------------------------------------------------------------


class _Enough(SystemExit):
    """Ends the script once enough steps were seen."""


def watch_script(path: str, arguments: list[str], steps: int) -> tuple[Verification, str]:
    """Runs a script, as ``python path arguments`` would, until it took ``steps`` optimizer steps.

    Returns what was found, and why the script ended before that ("" when it did not).
    """
    check = Verification(steps)
    watcher = _Watcher(check, tell=False)
    watcher.enough = _Enough
    sys.argv = [path, *arguments]
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    watcher.begin()
    why = ""
    try:
        runpy.run_path(path, run_name="__main__")
    except _Enough:
        pass
    except SystemExit as error:
        why = f"the script ended with {error.code!r}" if error.code else ""
    except Exception as error:
        why = f"the script raised {type(error).__name__}: {error}"
        traceback.print_exc()
    if not check.done:
        watcher.end()
    if not (check.steps or why):
        why = "the script took no optimizer step"
    return check, why


def main() -> None:
    """``python -m gradhelm.verification STEPS SCRIPT ARGUMENTS...``: prints one line of JSON."""
    steps, path, *arguments = sys.argv[1:]
    output = os.dup(1)
    os.dup2(2, 1)  # what the script prints goes to stderr
    check, why = watch_script(path, arguments, int(steps))
    told = {
        "steps": check.steps,
        "findings": [finding._asdict() for finding in check.findings],
        "why": why,
        "text": str(check),
    }
    os.write(output, json.dumps(told).encode() + b"\n")


if __name__ == "__main__":
    main()
