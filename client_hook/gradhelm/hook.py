"""``attach``: the one line that a training script needs.

Law: arguments that cannot work are refused here, by name; after this only the clip itself may
raise.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from . import arguments, ranks, settings
from ._version import __version__
from .clip import Strategy
from .clip.norm import Observe
from .control import Control, Lever, Steering
from .dial import new_segment
from .errors import SpoolError
from .inbackward import InBackward
from .keeper import Keeper
from .link import Link
from .meeting import Announcement
from .notice import logger, speak
from .plan import Clip, Optimizers, Planned, plan
from .run import Run
from .stepper import Stepper, free
from .wire import MAX_NAME, Coded, Hello, Limits


def attach(
    model: nn.Module,
    optimizer: Optimizers | None = None,
    *,
    max_norm: float | None = None,
    clip: Clip | None = None,
    name: str | None = None,
    project: str | None = None,
    config: Mapping[str, Any] | None = None,
    tags: Iterable[str] = (),
    server: str | None = None,
    token: str | None = None,
    control: Control | None = None,
    every: int = 1,
    measure_every: int = 0,
    mode: str | None = None,
    spool: bool | None = None,
    run_id: str | None = None,
    resume: bool = False,
    start_step: int = 0,
) -> Run:
    """Clips and watches a training run: ``run = gradhelm.attach(model, optimizer, max_norm=1.0)``.

    model, optimizer: with an optimizer, clipping and reporting happen inside each
        ``optimizer.step()`` and cover what it steps: the model's own parameters in the model's
        order, then those it holds besides. Without one they cover the model's trainable parameters,
        and the loop calls ``run.clip()`` where ``clip_grad_norm_`` would stand. Several optimizers,
        in a list or as ``{"gen": a, "disc": b}``, are streams of one run, each with its own steps,
        norms and threshold. Optimizers that step inside the backward pass, one for each parameter,
        are one stream; put their hooks on the parameters before attaching.
    max_norm, clip: ``max_norm=x`` is short for ``clip=gradhelm.clip.GlobalNorm(x)``; with neither
        the gradients are only watched. ``clip`` also takes a dict of name patterns,
        ``{"encoder.*": AGC(0.01), "*": GlobalNorm(1.0)}`` (the first match wins, what none matches
        is watched), or a list with one strategy for each of the optimizer's parameter groups. With
        several optimizers each gets a copy, unless ``clip`` is a dict of their names.
    name, project, config, tags: what the run is called and filed under. The name defaults to the
        script's and the date; ``config`` is a dict that fits into 64 KiB of JSON (what JSON does
        not know is kept as its ``str``); its ``total_steps`` is shown as the run's length.
    server, token: default to ``GRADHELM_SERVER`` (else http://127.0.0.1:8642) and
        ``GRADHELM_TOKEN`` (else the local server's token file when the server is this machine).
        A server on another machine has to be https, unless ``GRADHELM_INSECURE=1`` says otherwise.
    control: what remote users may change, see :class:`gradhelm.Control`. By default the threshold,
        between 1/100 and 100 times its value here. A run that only watches is read-only unless
        ``control`` gives both ``min`` and ``max``: setting its ``max_norm`` then starts clipping.
    every: record every n-th step; clipped, skipped and non-finite ones always.
    measure_every: on every n-th step, also measure the norms of weights and updates, their ratio,
        for Adam's family the RMS of the update, and the gradients by powers of two; 0 for never.
        Costs a copy of the weights and some passes over them on those steps.
    mode: ``online``; ``offline``, where what is measured is kept on disk, below ``GRADHELM_SPOOL``,
        until ``gradhelm sync`` brings it to a server; or ``disabled`` (clip, and nothing else);
        defaults to ``GRADHELM_MODE``.
    spool: whether an online run too keeps on disk what the server does not have yet, so that it
        outlives the process and a long absence of the server; it is delivered when the server is
        back, when the run is resumed, or by ``gradhelm sync``. Defaults to whether
        ``GRADHELM_SPOOL`` is set.
    run_id, resume, start_step: ``run_id`` is a UUIDv7, made here by default; ``resume=True``
        continues the run of that id; ``start_step`` is the number of the first step.

    In a distributed job call it on every rank, after ``init_process_group`` and with the same
    ``clip`` and ``control``: rank 0 reports, the others clip silently, and a change takes hold at
    the same step on all of them. Nothing in here waits for another rank.

    Raises ValueError or TypeError that names the argument and what it accepts. The first steps
    raise RanksError where DistributedDataParallel keeps the ranks equal and some did not attach, or
    clip otherwise.
    """
    known = settings.read()
    arguments.instance("model", model, nn.Module, "a torch.nn.Module")
    if control is not None:
        arguments.instance("control", control, Control, "a gradhelm.Control or None")
    arguments.integer("every", every, 1)
    arguments.integer("measure_every", measure_every, 0)
    arguments.integer("start_step", start_step, 0)
    chosen = known.mode if mode is None else mode
    if chosen not in settings.MODES:
        raise ValueError(f"mode is {mode!r}; accepted: {', '.join(map(repr, settings.MODES))}")
    if spool is not None and not isinstance(spool, bool):
        raise TypeError(f"spool must be True, False or None, not {type(spool).__name__}")
    if spool is False and chosen == "offline":
        raise ValueError("spool=False leaves an offline run nowhere to keep what it measures")
    planned = plan(
        model,
        optimizer,
        max_norm,
        clip,
        start_step=start_step,
        every=every,
        measure_every=measure_every,
    )
    rank, size = ranks.here()
    limits, levers = _levers(
        planned, control, _why_not(known.control, offline=chosen == "offline" and rank == 0)
    )
    url = arguments.server(
        known.server if server is None else server,
        insecure=known.insecure or chosen != "online",  # else nothing is sent from here
    )
    classes = {
        one.stream.name: type(one.optimizers[0]).__name__ for one in planned if one.optimizers
    }
    hello = Hello(
        run=arguments.run_id(run_id, resume),
        segment=new_segment(),
        name=arguments.text("name", arguments.default_name() if name is None else name),
        project=arguments.text("project", "default" if project is None else project),
        coded=tuple(_coded(lever, classes.get(lever.stream)) for lever in levers),
        streams=tuple(one.name for one in planned) if len(planned) > 1 else (),
        limits=limits,
        config=arguments.config(config),
        tags=arguments.tags(tags),
        started=time.time(),
        resume=resume,
        host=socket.gethostname()[:MAX_NAME],
        hook=__version__,
    )
    if token is None:
        token = known.token or settings.local_token(url, known.home)
    if not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise TypeError("token must be a str of printable ASCII characters")
    run = Run(
        hello.run,
        f"{url}/runs/{hello.run}",
        {one.name: one.stream for one in planned},
        Steering(levers, limits),
    )
    for one in planned:
        for single in one.optimizers:
            free(single)
    for one in planned:
        if len(one.optimizers) == 1:
            run._steppers.append(Stepper(one.stream, model, one.optimizers[0], run.id))
        elif one.optimizers:
            run._steppers.append(InBackward(one.stream, one.optimizers, run.id))
    if size > 1:
        said = ranks.announcement(levers, limits, reports=rank > 0 or chosen != "disabled")
        _join(run, said, [t.parameter for one in planned for t in one.stream.layout.targets])
    if rank == 0 and chosen != "disabled":
        speak()
        if chosen == "online":
            keeps = known.spool_online if spool is None else spool
            folder = known.spool if keeps else None
            run._report(lambda *cargo: Link(url, token, hello, folder, *cargo), f"at {run.url}")
        else:
            _keep(run, known.spool, hello)
    return run


def _join(run: Run, said: Announcement, parameters: list[Tensor]) -> None:
    """The run takes its place among the ranks; where it cannot, nothing changes its thresholds."""
    try:
        run._ranks = ranks.Ranks(run._steering, run._notices, said, parameters)
    except Exception as error:
        why = f"the process group's store cannot be used ({type(error).__name__}: {error})"
        run._steering.limits = Limits(why_not=why)
        logger.warning("%s; nothing can be changed from outside", why)


def _keep(run: Run, folder: Path, hello: Hello) -> None:
    """What is measured goes to disk; where it cannot, the run only clips."""
    try:
        run._report(
            lambda *cargo: Keeper(folder, hello, *cargo),
            f"offline; to bring them to a server: gradhelm sync {folder / hello.run}",
        )
    except SpoolError as error:
        logger.warning("%s; training goes on, unwatched", error)


def _why_not(allowed: bool, *, offline: bool) -> str | None:
    """Why nothing may be changed from outside, whatever the script allows."""
    if not allowed:
        return "GRADHELM_CONTROL=off where the trainer runs"
    if offline:
        return "the run is offline: nothing reaches it"
    return None


def _levers(
    planned: list[Planned], control: Control | None, why_not: str | None
) -> tuple[Limits, list[Lever]]:
    """What remote users may change: the strategies of all streams, with the ranges of their
    thresholds; without ranges where nothing may be changed."""
    asked = control or Control()
    levers = []
    for one in planned:
        for match, strategy in one.stream.strategy.rules.items():
            name = strategy.threshold_name
            coded = None if name is None else strategy.parameters.get(name)
            ranges = asked.ranges(name, coded, _most(strategy, name))
            if asked.strategies:
                for other, value in strategy.parameters.items():
                    if other != name:
                        ranges |= asked.others(other, value, strategy.range(other))
            levers.append(Lever(strategy, ranges, one.stream.next_step, match, one.stream.name))
    limits = asked.limits(lr=all(len(one.optimizers) == 1 for one in planned))
    if why_not is not None:
        limits = Limits(why_not=why_not)
    elif (
        limits.why_not is None
        and not (limits.lr or limits.stop)
        and not any(lever.limits for lever in levers)
    ):
        if any(isinstance(lever.strategy, Observe) for lever in levers):
            if control is not None:
                raise ValueError(
                    "control without max_norm or clip must give both min and max: "
                    "there is no coded threshold to measure a range by"
                )
            limits = Limits(
                why_not="the run only observes: attach with max_norm=... or with "
                "control=Control(min=..., max=...)"
            )
        else:
            limits = Limits(why_not="the run's strategy has no threshold")
    if limits.why_not is not None:
        levers = [lever._replace(limits={}) for lever in levers]
    return limits, levers


def _most(strategy: Strategy, name: str | None) -> float:
    """The largest value that ``name`` takes; of an open range, one well inside."""
    allowed = strategy.range(name or "")
    return allowed.high if allowed.high_in or allowed.high == math.inf else 0.99 * allowed.high


def _coded(lever: Lever, optimizer: str | None) -> Coded:
    strategy = lever.strategy
    assert isinstance(strategy, Strategy)
    observing = isinstance(strategy, Observe) and not lever.limits
    return Coded(
        strategy.name[:MAX_NAME],
        strategy.parameters,
        None if observing else strategy.threshold_name,
        lever.limits,
        lever.match,
        lever.stream,
        optimizer and optimizer[:MAX_NAME],
    )
