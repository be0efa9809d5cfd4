"""Writes the parts of the documents that the code knows better: ``make docs``.

Between ``<!-- name: … -->`` and ``<!-- /name -->`` stands what the code says. The tests compare,
so that a document cannot fall behind; this is how it catches up.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import msgspec

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "client_hook"), str(ROOT / "server")]

from gradhelm import settings, wire  # noqa: E402
from gradhelm_server import settings as server_settings  # noqa: E402

GOLDEN = ROOT / "tests" / "wire" / "golden"


def settings_table() -> str:
    """Every environment variable, its default and its meaning."""
    rows = {**settings.TABLE, **server_settings.VARIABLES}
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, (default, meaning) in rows.items():
        shown = f"`{default}`" if re.fullmatch(r"\S+", default) and default != "none" else default
        lines.append(f"| `{name}` | {shown or 'none'} | {meaning} |")
    return "\n".join(lines)


def close_codes() -> str:
    """Why the server ends a trainer's socket, and what the trainer does then."""
    lines = ["| code | name | why | the trainer |", "|---|---|---|---|"]
    for code in wire.CloseCode:
        then = "stops reporting" if code in wire.FINAL_CLOSES else "comes back"
        lines.append(f"| {code:d} | `{code.name}` | {wire.CLOSE_REASONS[code]} | {then} |")
    return "\n".join(lines)


def limits() -> str:
    """The limits of the wire, by the names that they have in it."""
    lines = ["| limit | value | |", "|---|---|---|"]
    for name in ("MESSAGE", "FRAME", "COLUMNS", "GROUP", "NAME", "CONFIG", "STEP", "LR_FACTOR"):
        value = getattr(wire, f"MAX_{name}")
        lines.append(f"| `MAX_{name}` | {value:,} | {LIMITS[name]} |")
    return "\n".join(lines)


LIMITS = {
    "MESSAGE": "bytes of one WebSocket message",
    "FRAME": "bytes of one frame's values",
    "COLUMNS": "columns of a run",
    "GROUP": "columns of a group",
    "NAME": "characters of a name",
    "CONFIG": "bytes of a run's configuration",
    "STEP": "the largest step, 2^53 − 1",
    "LR_FACTOR": "what learning rates may be multiplied, or divided, by",
}


def messages(union: object) -> str:
    """One section a message: its docstring, its fields, its golden bytes."""
    return "\n\n".join(section(kind) for kind in get_args(union))


def parts() -> str:
    """The structs that messages are made of."""
    kinds = (
        wire.Column,
        wire.Rule,
        wire.Coded,
        wire.Limit,
        wire.Limits,
        wire.Document,
        wire.RevertIf,
    )
    return "\n\n".join(section(kind) for kind in kinds)


def section(kind: type[msgspec.Struct]) -> str:
    tag = kind.__struct_config__.tag
    text = inspect.cleandoc(kind.__doc__ or "").replace("``", "`")
    lines = [f"### {kind.__name__}", "", text, "", "| field | type | default |", "|---|---|---|"]
    if tag is not None:
        lines.append(f'| `type` | `"{tag}"` | |')
    types = get_type_hints(kind, include_extras=True)
    for field in msgspec.structs.fields(kind):
        default = "" if field.default is msgspec.NODEFAULT else f"`{field.default!r}`"
        if field.default_factory is not msgspec.NODEFAULT:
            default = f"`{field.default_factory()!r}`"
        lines.append(f"| `{field.name}` | {in_words(types[field.name])} | {default} |")
    for path in golden_files(tag):
        lines += [
            "",
            f"`{path.name}`:",
            "",
            "```",
            path.read_text(encoding="utf-8").rstrip(),
            "```",
        ]
    return "\n".join(lines)


def golden_files(tag: object) -> list[Path]:
    """The golden files of one kind of message: ``tag.hex`` and ``tag_….hex``."""
    return [path for path in sorted(GOLDEN.glob("*.hex")) if tag_of(path) == tag]


def tag_of(path: Path) -> str:
    return path.stem.partition("_")[0]


WORDS = {bytes: "bytes", bool: "true or false", float: "number", int: "integer", str: "text"}


def in_words(kind: Any) -> str:
    """A type as a reader of another language wants it."""
    if kind == wire.Time:
        return "number, seconds since 1970, before the year 10000"
    if get_origin(kind) is Annotated:
        inner, *checks = get_args(kind)
        said = [phrase for check in checks for phrase in bounds(check, inner)]
        return ", ".join([in_words(inner), *said])
    if isinstance(kind, UnionType) or get_origin(kind) is Union:
        either = [in_words(one) for one in get_args(kind) if one is not NoneType]
        return " or ".join(either) + "; or nil"
    if get_origin(kind) is tuple:
        return f"array of: {in_words(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        key, value = get_args(kind)
        return f"map of: {in_words(key)} → {in_words(value)}"
    if kind in WORDS:
        return WORDS[kind]
    return f"[{kind.__name__}](#{kind.__name__.lower()})"


def bounds(check: msgspec.Meta, kind: Any) -> list[str]:
    """What a value must keep to, in words."""
    unit = {str: "characters", bytes: "bytes"}.get(kind, "items")
    said = []
    if check.ge is not None and check.ge > -1e30:
        said.append(f"from {check.ge:,}")
    if check.le is not None and check.le < 1e15:
        said.append(f"to {check.le:,}")
    if check.lt is not None:
        said.append(f"below {check.lt:,}")
    if kind is float:
        said.append("finite")
    if check.min_length is not None:
        said.append(f"{check.min_length} to {check.max_length:,} {unit}")
    elif check.max_length is not None:
        said.append(f"at most {check.max_length:,} {unit}")
    if check.pattern is not None:
        choice = re.fullmatch(r"\^\(([\w|]+)\)\\Z", check.pattern)
        said.append(
            PATTERNS[check.pattern]
            if choice is None
            else "one of " + ", ".join(choice[1].split("|"))
        )
    return said


PATTERNS = {
    wire._NO_NUL: "no NUL",
    get_args(wire.RunId)[1].pattern: "a UUIDv7",
    get_args(wire.SegmentId)[1].pattern: "16 hexadecimal digits",
}


DOCUMENTS: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"settings": settings_table},
    "docs/protocol.md": {
        "limits": limits,
        "parts": parts,
        "to-server": lambda: messages(wire.ToServer),
        "to-trainer": lambda: messages(wire.ToTrainer),
        "close-codes": close_codes,
    },
}


def renewed(text: str, blocks: dict[str, Callable[[], str]]) -> str:
    """``text`` with each block as the code has it now. Raises ValueError for a missing one."""
    for name, write in blocks.items():
        pattern = re.compile(rf"(<!-- {name}\b[^>]*-->\n).*?(<!-- /{name} -->)", re.DOTALL)
        body = write()
        text, found = pattern.subn(lambda m, body=body: f"{m[1]}{body}\n{m[2]}", text)
        if found != 1:
            raise ValueError(f"{found} blocks called {name}; expected one")
    return text


def main() -> None:
    for name, blocks in DOCUMENTS.items():
        path = ROOT / name
        path.write_text(renewed(path.read_text(encoding="utf-8"), blocks), encoding="utf-8")


if __name__ == "__main__":
    main()
