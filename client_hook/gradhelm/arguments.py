"""The plain arguments of ``attach``, checked: each error names the argument and what it accepts."""

from __future__ import annotations

import os
import re
import secrets
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from . import address
from .wire import MAX_CONFIG, MAX_NAME, MAX_STEP

_UUID7: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_MAX_TAGS: Final = 64


def uuid7() -> str:
    """A UUIDv7 (RFC 9562): 48 bits of milliseconds, then random ones."""
    stamp = time.time_ns() // 1_000_000 & (1 << 48) - 1
    value = stamp << 80 | 7 << 76 | secrets.randbits(12) << 64 | 2 << 62 | secrets.randbits(62)
    text = f"{value:032x}"
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


def server(url: object, *, insecure: bool) -> str:
    """``insecure``: http is accepted for another machine too."""
    instance("server", url, str, "an http or https URL")
    assert isinstance(url, str)
    found = address.checked(url)
    address.protected(found, insecure=insecure)
    return found


def run_id(run_id: object, resume: object) -> str:
    instance("resume", resume, bool, "True or False")
    if run_id is None:
        if resume:
            raise ValueError("resume=True needs run_id, the id of the run to continue")
        return uuid7()
    instance("run_id", run_id, str, "a UUIDv7 as text")
    assert isinstance(run_id, str)
    if not _UUID7.fullmatch(run_id):
        raise ValueError(f"run_id is {run_id!r}; accepted: a UUIDv7 in lower case")
    return run_id


def config(config: object) -> str:
    if config is None:
        return "{}"
    instance("config", config, Mapping, "a dict")
    assert isinstance(config, Mapping)
    try:
        text = msgspec.json.encode(dict(config), enc_hook=str).decode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"config cannot be written as JSON: {error}") from None
    if len(text) > MAX_CONFIG:
        raise ValueError(f"config is {len(text)} characters of JSON; at most {MAX_CONFIG} fit")
    return text


def tags(tags: object) -> tuple[str, ...]:
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise TypeError(f"tags must be a list of str, not {type(tags).__name__}")
    found = tuple(text("tags", tag) for tag in tags)
    if len(found) > _MAX_TAGS:
        raise ValueError(f"tags are {len(found)}; at most {_MAX_TAGS} are accepted")
    return found


def text(argument: str, value: object) -> str:
    instance(argument, value, str, "text")
    assert isinstance(value, str)
    if not 1 <= len(value) <= MAX_NAME or not value.isprintable():
        raise ValueError(f"{argument} must be 1 to {MAX_NAME} printable characters: {value[:60]!r}")
    return value


def integer(argument: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} must be an int, not {type(value).__name__}")
    if not least <= value <= MAX_STEP:
        raise ValueError(f"{argument} must be at least {least}, not {value}")


def instance(argument: str, value: object, kind: type, accepted: str) -> None:
    if not isinstance(value, kind):
        raise TypeError(f"{argument} must be {accepted}, not {type(value).__name__}")


def default_name() -> str:
    script = sys.argv[0] if sys.argv else ""
    stem = Path(script).stem if script not in ("", "-c", "-m") else "python"
    if stem == "__main__":
        stem = Path(os.path.abspath(script)).parent.name
    plain = "".join(c for c in stem if c.isprintable())[: MAX_NAME - 20] or "python"
    return f"{plain} {time.strftime('%Y-%m-%d %H:%M')}"
