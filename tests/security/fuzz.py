"""Fuzzers: bytes that are led by coverage, and what must hold whatever they are.

    python -m security.fuzz                        all targets, 30 minutes in all, two at a time
    python -m security.fuzz wire --seconds 60      one of them
    python -m security.fuzz spool --input FILE     an input that was found, tried again

From the folder ``tests``. A target is a module ``fuzz_NAME`` with ``one(data)``, which raises for
what must not be; ``seeds()``, inputs to begin with; ``FOUND``, inputs that broke it once and are
tried by every test run; and, if it begins what would go on by itself, ``end()``. It runs in a process of its own under Atheris, or, where there is no Atheris
for a machine, with inputs that are changed blindly; the report says which.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import random
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

TARGETS = ("wire", "spool", "control", "queries")
TESTS = Path(__file__).resolve().parent.parent
PLACES = [*(TESTS.parent / room for room in ("client_hook", "server", "dashboard", "migrations"))]
IN_ALL = 1800
"""Seconds that all targets take together by default."""
MEMORY = 1024
"""MiB that a target may hold; more is a finding."""
SLOW = 10
"""Seconds that one input may take; more is a finding."""
LONGEST = 8192
"""Bytes of an input."""
CHILD = "FUZZ_CHILD"


def instrumented(*packages: str) -> AbstractContextManager[Any]:
    """What a target imports within it, of these packages (by default, ours), tells the fuzzer which
    way it goes. A target itself does not, nor what was imported before."""
    if CHILD not in os.environ:
        return nullcontext()
    try:
        import atheris
    except ImportError:
        return nullcontext()
    found: AbstractContextManager[Any] = atheris.instrument_imports(
        include=[*(packages or ("gradhelm", "gradhelm_server"))]
    )
    return found


class Report(NamedTuple):
    """What came of one target. ``coverage``: branches that were seen, None where inputs were changed
    blindly; ``peak`` is in MiB. ``crash``: what was raised, and the input."""

    name: str
    seconds: float
    executions: int
    coverage: int | None
    peak: int
    crash: str | None

    def __str__(self) -> str:
        how = "blindly" if self.coverage is None else f"coverage {self.coverage}"
        found = "0 crashes" if self.crash is None else "a CRASH"
        return (
            f"{self.name:8} {self.executions:>10,} executions in {self.seconds:.0f} s, {how}, "
            f"peak {self.peak} MiB, {found}"
        )


def fuzz(name: str, seconds: int, seed: int = 0) -> Report:
    """Runs a target in a process of its own."""
    with tempfile.TemporaryDirectory(prefix=f"gradhelm-fuzz-{name}-") as folder:
        began = time.monotonic()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "security.fuzz", name),
                *("--seconds", str(seconds), "--seed", str(seed)),
            ],
            cwd=TESTS,
            env={
                **os.environ,
                CHILD: folder,
                "TMPDIR": folder,  # a fuzzer that found something ends without tidying up
                "PYTHONPATH": os.pathsep.join(map(str, [*PLACES, TESTS, TESTS / "server"])),
            },
            capture_output=True,
            text=True,
            errors="replace",
        )
        text = done.stdout + done.stderr

        def last(pattern: str) -> int | None:
            found = re.findall(pattern, text)
            return int(found[-1]) if found else None

        crash = None
        if done.returncode:
            inputs = [repr(path.read_bytes()) for path in sorted(Path(folder).glob("found/*"))]
            crash = "\n".join([text[-4000:], "the input:", *inputs])
        return Report(
            name,
            time.monotonic() - began,
            last(r"stat::number_of_executed_units: *(\d+)") or 0,
            last(r"cov: (\d+)"),
            last(r"stat::peak_rss_mb: *(\d+)") or 0,
            crash,
        )


def golden(pattern: str = "*.hex") -> list[bytes]:
    """Messages as they are written down beside the wire's own tests: a hexdump's left side."""
    files = sorted((TESTS / "wire" / "golden").glob(pattern))
    lines = [path.read_text(encoding="utf-8").splitlines() for path in files]
    return [bytes.fromhex("".join(line[:47] for line in text)) for text in lines]


@contextmanager
def target(name: str) -> Iterator[ModuleType]:
    """The module; what it has begun is ended, also when it raises."""
    module = importlib.import_module(f"security.fuzz_{name}")
    try:
        yield module
    finally:
        getattr(module, "end", lambda: None)()


# -- in the process of a target -------------------------------------------------------------------


def run(module: ModuleType, seconds: int, seed: int, folder: Path) -> None:
    """Ends the process."""
    found, corpus = folder / "found", folder / "corpus"
    found.mkdir()
    corpus.mkdir()
    for data in [*module.seeds(), *module.FOUND]:
        (corpus / hashlib.sha1(data).hexdigest()).write_bytes(data)
    try:
        import atheris
    except ImportError:
        blindly(module, seconds, seed, found)
        return
    options = {
        "max_total_time": seconds,
        "seed": seed + 1,  # 0 would be a seed by chance
        "rss_limit_mb": MEMORY,
        "timeout": SLOW,
        "max_len": LONGEST,
        "print_final_stats": 1,
        "artifact_prefix": f"{found}/",
    }
    arguments = [f"-{key}={value}" for key, value in options.items()]
    atheris.Setup([sys.argv[0], *arguments, str(corpus)], module.one)
    atheris.Fuzz()


def blindly(module: ModuleType, seconds: int, seed: int, found: Path) -> None:
    """The same without anybody who looks where it leads."""
    chance = random.Random(seed)
    pool = [data for data in [*module.seeds(), *module.FOUND] if data] or [b"\0"]
    over, count = time.monotonic() + seconds, 0
    while time.monotonic() < over:
        data = bytearray(chance.choice(pool))
        for _ in range(chance.randint(1, 8)):
            at = chance.randrange(len(data) + 1)
            some = bytes(chance.getrandbits(8) for _ in range(chance.randint(0, 8)))
            data[at : at + chance.randint(0, 8)] = some
        began = time.monotonic()
        try:
            module.one(bytes(data[:LONGEST]))
            assert time.monotonic() - began < SLOW, "too slow"
        except BaseException:
            (found / "crash").write_bytes(bytes(data))
            raise
        count += 1
    unit = 2**20 if sys.platform == "darwin" else 2**10
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // unit
    assert peak < MEMORY, f"{peak} MiB"
    print(f"stat::number_of_executed_units: {count}\nstat::peak_rss_mb: {peak}")


def main(names: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=names or list(TARGETS))
    parser.add_argument("--seconds", type=int, help="of each target")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--input", type=Path, help="try this file, and nothing else")
    asked = parser.parse_args()
    seconds = asked.seconds or IN_ALL // len(asked.names)
    if CHILD in os.environ:
        with target(asked.names[0]) as module:
            run(module, seconds, asked.seed, Path(os.environ[CHILD]))
        return 0
    if asked.input is not None:
        with target(asked.names[0]) as module:
            module.one(asked.input.read_bytes())
        return 0
    crashes = 0
    with ThreadPoolExecutor(2) as pool:
        for report in pool.map(lambda name: fuzz(name, seconds, asked.seed), asked.names):
            print(report, flush=True)
            if report.crash is not None:
                crashes += 1
                print(report.crash, flush=True)
    return int(crashes > 0)


if __name__ == "__main__":
    sys.exit(main())
