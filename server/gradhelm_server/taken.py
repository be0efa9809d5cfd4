"""``gradhelm export``: a run, taken along as a file of this machine.

Law: what is there already stays as it is, and a file is there under its name only once it is whole.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gradhelm.rest import Client

from .endings import Failed, Usage
from .words import print_json, safe


def export(arguments: argparse.Namespace) -> None:
    kind, output = arguments.format, arguments.output
    if output is None and kind not in ("csv", "jsonl"):
        raise Usage(f"--format {kind} needs --output PATH")
    events = _tensorboard() if kind == "tensorboard" else None
    client = Client.here()
    run = client.find(arguments.run)
    asked = {name: getattr(arguments, name) for name in ("columns", "first", "last", "stream")}
    query = {name: value for name, value in asked.items() if value is not None}
    query["format"] = "jsonl" if events else kind
    parts = _told(client.download(f"runs/{run['id']}/export", query))
    if output is None:
        for part in parts:
            sys.stdout.buffer.write(_tame(part) if sys.stdout.isatty() else part)
        return
    with _beside(output, force=arguments.force) as place:
        if events:
            place.mkdir()
            steps = events(place, parts)
        else:
            steps = None
            with place.open("wb") as file:
                file.writelines(parts)
        size = sum(path.stat().st_size for path in (place, *place.rglob("*")) if path.is_file())
    if arguments.json:
        print_json({"run": run["id"], "path": str(output), "format": kind, "bytes": size})
        return
    counted = "" if steps is None else f"{steps:,} steps, "
    print(f"{safe(run['name'])}: {counted}{size:,} bytes in {output}")


@contextmanager
def _beside(output: Path, *, force: bool) -> Iterator[Path]:
    """A place to write to, which becomes ``output`` when all went well, and else vanishes."""
    if output.exists() and not force:
        raise Failed(f"{output} is there already; --force replaces it")
    part = output.with_name(f"{output.name}.part")
    try:
        _remove(part)
        yield part
        if output.is_dir():
            _remove(output)
        part.replace(output)
    except OSError as error:
        raise Failed(f"cannot write {output}: {error.strerror or error}") from None
    finally:
        _remove(part)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _told(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same, with progress on a terminal."""
    terminal, size = os.isatty(2), 0
    for part in parts:
        size += len(part)
        if terminal:
            print(f"\r{size:,} bytes …", end="", file=sys.stderr, flush=True)
        yield part
    if terminal:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _tame(part: bytes) -> bytes:
    """For eyes: a column's name, which is somebody else's, moves no terminal."""
    text = part.decode(errors="replace")
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text).encode()


def _tensorboard() -> Any:
    """What writes lines of JSON as TensorBoard's event files. Raises Failed without TensorBoard."""
    try:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
    except ImportError:
        raise Failed("this format needs TensorBoard: pip install 'gradhelm[tensorboard]'") from None

    def write(place: Path, parts: Iterable[bytes]) -> int:
        writer, steps = EventFileWriter(str(place)), 0
        for line in _lines(parts):
            row = json.loads(line)
            event = Event(step=row.pop("step"), wall_time=row.pop("time", 0.0))
            for name, value in row.items():
                event.summary.value.append(Summary.Value(tag=name, simple_value=float(value)))
            writer.add_event(event)
            steps += 1
        writer.close()
        return steps

    return write


def _lines(parts: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for part in parts:
        *lines, rest = (rest + part).split(b"\n")
        yield from lines
