"""``attach``: the one line that a training script needs.

Law: arguments that cannot work are refused here, by name; after this only the clip itself may
raise.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import torch
from torch import nn, optim
from torch.nn.parameter import UninitializedParameter

from . import settings
from ._version import __version__
from .clip import GlobalNorm, Strategy, Target
from .clip.norm import Observe
from .control import Control
from .layout import Layout, choose
from .link import new_segment
from .notice import speak
from .run import Run
from .stepper import Stepper
from .wire import MAX_CONFIG, MAX_NAME, MAX_STEP, Hello, Limits, Rule

_UUID7: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_MAX_TAGS: Final = 64


def attach(
    model: nn.Module,
    optimizer: optim.Optimizer | None = None,
    *,
    max_norm: float | None = None,
    clip: Strategy | None = None,
    name: str | None = None,
    project: str | None = None,
    config: Mapping[str, Any] | None = None,
    tags: Iterable[str] = (),
    server: str | None = None,
    token: str | None = None,
    control: Control | None = None,
    every: int = 1,
    mode: str | None = None,
    run_id: str | None = None,
    resume: bool = False,
    start_step: int = 0,
) -> Run:
    """Clips and watches a training run: ``run = gradhelm.attach(model, optimizer, max_norm=1.0)``.

    model, optimizer: with an optimizer, clipping and reporting happen inside each
        ``optimizer.step()`` and cover what it steps: the model's own parameters in the model's
        order, then those it holds besides. Without one they cover the model's trainable parameters,
        and the loop calls ``run.clip()`` where ``clip_grad_norm_`` would stand.
    max_norm, clip: ``max_norm=x`` is short for ``clip=gradhelm.clip.GlobalNorm(x)``; with neither
        the gradients are only watched.
    name, project, config, tags: what the run is called and filed under. The name defaults to the
        script's and the date; ``config`` is a dict that fits into 64 KiB of JSON (what JSON does
        not know is kept as its ``str``); its ``total_steps`` is shown as the run's length.
    server, token: default to ``GRADHELM_SERVER`` (else http://127.0.0.1:8642) and
        ``GRADHELM_TOKEN`` (else the local server's token file when the server is this machine).
    control: what remote users may change, see :class:`gradhelm.Control`. By default the threshold,
        between 1/100 and 100 times its value here. A run that only watches is read-only unless
        ``control`` gives both ``min`` and ``max``: setting its ``max_norm`` then starts clipping.
    every: record every n-th step; clipped, skipped and non-finite ones always.
    mode: ``online`` or ``disabled`` (clip, and nothing else); defaults to ``GRADHELM_MODE``.
    run_id, resume, start_step: ``run_id`` is a UUIDv7, made here by default; ``resume=True``
        continues the run of that id; ``start_step`` is the number of the first step.

    In a distributed job rank 0 reports, the other ranks clip silently, and the run is read-only.

    Raises ValueError or TypeError that names the argument and what it accepts.
    """
    known = settings.read()
    _instance("model", model, nn.Module, "a torch.nn.Module")
    if optimizer is not None:
        _instance("optimizer", optimizer, optim.Optimizer, "one torch.optim.Optimizer or None")
    strategy = _strategy(max_norm, clip)
    if control is not None:
        _instance("control", control, Control, "a gradhelm.Control or None")
    _integer("every", every, 1)
    _integer("start_step", start_step, 0)
    chosen = known.mode if mode is None else mode
    if chosen not in settings.MODES:
        raise ValueError(f"mode is {mode!r}; accepted: {', '.join(map(repr, settings.MODES))}")
    targets = choose(model, optimizer)
    _clippable(targets)
    strategy.bind(targets, optimizer)
    rank, ranks = _rank()
    threshold = strategy.threshold_name
    limits = _limits(control or Control(), strategy, known.control, ranks)
    if isinstance(strategy, Observe) and limits.why_not is not None:
        threshold = None
        if control is not None and not control.read_only and ranks == 1 and known.control:
            raise ValueError(
                "control without max_norm or clip must give both min and max: "
                "there is no coded threshold to measure a range by"
            )
    url = _server(known.server if server is None else server)
    hello = Hello(
        run=_run_id(run_id, resume),
        segment=new_segment(),
        name=_text("name", _default_name() if name is None else name),
        project=_text("project", "default" if project is None else project),
        strategy=strategy.name[:MAX_NAME],
        coded=(Rule(strategy.parameters),),
        limits=limits,
        threshold=threshold,
        config=_config(config),
        tags=_tags(tags),
        started=time.time(),
        resume=resume,
        host=socket.gethostname()[:MAX_NAME],
        hook=__version__,
    )
    if token is None:
        token = known.token or settings.local_token(url, known.home)
    elif not isinstance(token, str) or not token.isascii() or not token.isprintable():
        raise TypeError("token must be a str of printable ASCII characters")
    run = Run(
        hello.run,
        f"{url}/runs/{hello.run}",
        Layout(targets, strategy),
        strategy,
        limits,
        start_step=start_step,
        every=every,
    )
    if optimizer is not None:
        run._stepper = Stepper(run, model, optimizer)
    if chosen == "online" and rank == 0:
        speak()
        run._report_to(url, token, hello)
    return run


def uuid7() -> str:
    """A UUIDv7 (RFC 9562): 48 bits of milliseconds, then random ones."""
    stamp = time.time_ns() // 1_000_000 & (1 << 48) - 1
    value = stamp << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62)
    text = f"{value:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def _strategy(max_norm: object, clip: object) -> Strategy:
    if clip is not None:
        _instance("clip", clip, Strategy, "one gradhelm.clip strategy, such as GlobalNorm(1.0)")
        if max_norm is not None:
            raise ValueError(
                "clip and max_norm are both given; max_norm=x means clip=GlobalNorm(x)"
            )
        assert isinstance(clip, Strategy)
        return clip
    return Observe() if max_norm is None else GlobalNorm(max_norm)  # type: ignore[arg-type]


def _limits(control: Control, strategy: Strategy, allowed: bool, ranks: int) -> Limits:
    name = strategy.threshold_name
    # Not the threshold in force: an adaptive one's comes from norms, and there are none yet.
    limits = control.limits(name, None if name is None else strategy.parameters.get(name))
    if not allowed:
        return Limits(why_not="GRADHELM_CONTROL=off where the trainer runs")
    if ranks > 1:
        return Limits(
            why_not=f"the job has {ranks} ranks: all of them would have to switch at the same "
            "step, which this version cannot do"
        )
    return limits


def _clippable(targets: list[Target]) -> None:
    for name, parameter, *_ in targets:
        if isinstance(parameter, UninitializedParameter):
            raise ValueError(f"model is lazy: {name} has no shape before the first forward pass")
        if parameter.layout != torch.strided:
            raise ValueError(f"model holds the sparse parameter {name}; torch cannot clip those")
        if type(parameter.data).__name__ == "DTensor":
            raise ValueError(
                f"model holds the DTensor {name}; sharded parameters are not supported"
            )


def _rank() -> tuple[int, int]:
    """This process's rank and how many there are."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _server(url: object) -> str:
    _instance("server", url, str, "an http or https URL")
    assert isinstance(url, str)
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(f"server is {url!r}; accepted: an http or https URL with a host")
    return url.rstrip("/")


def _run_id(run_id: object, resume: object) -> str:
    _instance("resume", resume, bool, "True or False")
    if run_id is None:
        if resume:
            raise ValueError("resume=True needs run_id, the id of the run to continue")
        return uuid7()
    _instance("run_id", run_id, str, "a UUIDv7 as text")
    assert isinstance(run_id, str)
    if not _UUID7.fullmatch(run_id):
        raise ValueError(f"run_id is {run_id!r}; accepted: a UUIDv7 in lower case")
    return run_id


def _config(config: object) -> str:
    if config is None:
        return "{}"
    _instance("config", config, Mapping, "a dict")
    assert isinstance(config, Mapping)
    try:
        text = msgspec.json.encode(dict(config), enc_hook=str).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"config cannot be written as JSON: {error}") from None
    if len(text) > MAX_CONFIG:
        raise ValueError(f"config is {len(text)} characters of JSON; at most {MAX_CONFIG} fit")
    return text


def _tags(tags: object) -> tuple[str, ...]:
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise TypeError(f"tags must be a list of str, not {type(tags).__name__}")
    found = tuple(_text("tags", tag) for tag in tags)
    if len(found) > _MAX_TAGS:
        raise ValueError(f"tags are {len(found)}; at most {_MAX_TAGS} are accepted")
    return found


def _text(argument: str, value: object) -> str:
    _instance(argument, value, str, "text")
    assert isinstance(value, str)
    if not 1 <= len(value) <= MAX_NAME or not value.isprintable():
        raise ValueError(f"{argument} must be 1 to {MAX_NAME} printable characters: {value[:60]!r}")
    return value


def _integer(argument: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} must be an int, not {type(value).__name__}")
    if not least <= value <= MAX_STEP:
        raise ValueError(f"{argument} must be at least {least}, not {value}")


def _instance(argument: str, value: object, kind: type, accepted: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{argument} must be {accepted}, not {type(value).__name__}")


def _default_name() -> str:
    script = sys.argv[0] if sys.argv else ""
    stem = Path(script).stem if script not in ("", "-c", "-m") else "python"
    if stem == "__main__":
        stem = Path(os.path.abspath(script)).parent.name
    plain = "".join(c for c in stem if c.isprintable())[: MAX_NAME - 20] or "python"
    return f"{plain} {time.strftime('%Y-%m-%d %H:%M')}"
