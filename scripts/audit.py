"""What is installed with gradhelm: whole, as pinned, under licences that go with its own, and without
known vulnerabilities.

    python scripts/audit.py             all of it
    python scripts/audit.py --offline   but the last, which asks the database of OSV.dev

Whether something is known to be vulnerable cannot be found out without asking. Where nobody answers
that is said, and the exit status is 3: it was not looked at, which is not the same as in order.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints-dev.txt"
OWN = "gradhelm"
RUNTIME = ("server", "dashboard")
NOT_LOOKED_AT = 3

# Licences under which a package may be used and passed on beside Apache-2.0 code, as they are called
# in the metadata of packages: by SPDX, and by older words of their own.
PERMISSIVE = re.compile(
    r"\b(MIT|BSD|0BSD|Apache|ISC|PSF|Python Software Foundation|MPL[- ]2|Mozilla Public License 2"
    r"|Zlib|Unlicense|Public Domain|CNRI|HPND|LGPL|Lesser General Public)\b",
    re.IGNORECASE,
)


def name_of(text: str) -> str:
    """A distribution's name, as all spellings of it are compared."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s\[<>=!~;(]", text.strip())[0]).lower()


def installed() -> dict[str, metadata.Distribution]:
    return {name_of(one.metadata["Name"]): one for one in metadata.distributions()}


def pins() -> dict[str, str]:
    lines = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {name_of(name): version.strip() for name, version in pairs}


def needed_by(roots: Iterable[str], extras: tuple[str, ...] = ()) -> set[str]:
    """The names of ``roots`` and of all that they need, of what is installed. ``extras`` are those
    of the roots."""
    there, found = installed(), set()
    waiting = [(name, extras) for name in roots]
    while waiting:
        name, wanted = waiting.pop()
        if name in found or name not in there:
            continue
        found.add(name)
        for requirement in there[name].requires or ():
            extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", requirement)
            if extra is None or extra[1] in wanted:
                inner = re.search(r"\[([^\]]*)\]", requirement.partition(";")[0])
                own = tuple(inner[1].replace(" ", "").split(",")) if inner else ()
                waiting.append((name_of(requirement), own))
    return found


def broken() -> list[str]:
    """What pip finds missing, or not to go together."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False
    )
    return [] if done.returncode == 0 else (done.stdout + done.stderr).strip().splitlines()


def unpinned() -> list[str]:
    """What is installed in another release than the one that is pinned, or in none that is.

    Not looked at is what torch brings along, which is another thing for every build of it.
    """
    wanted, found = pins(), []
    of_torch = needed_by(["torch"]) - wanted.keys()
    for name, one in sorted(installed().items()):
        version = one.version.partition("+")[0]
        if name == OWN or name in of_torch:
            continue
        if name not in wanted:
            found.append(f"{name} {version} is not pinned")
        elif wanted[name] != version:
            found.append(f"{name} is {version}, pinned is {wanted[name]}")
    return found


def licence_of(one: metadata.Distribution) -> str:
    """Words of a package about its licence; the shortest that say something."""
    told = [
        one.metadata.get("License-Expression") or "",
        *(
            line.rpartition("::")[2]
            for line in one.metadata.get_all("Classifier") or ()
            if line.startswith("License ::")
        ),
        (one.metadata.get("License") or "").strip().partition("\n")[0][:60],
    ]
    return next((words.strip() for words in told if words.strip()), "")


def licences() -> dict[str, str]:
    """Of everything that gradhelm needs where it runs."""
    there = installed()
    needed = needed_by([OWN], RUNTIME) - {OWN}
    return {name: licence_of(there[name]) for name in sorted(needed)}


def unlicensed() -> list[str]:
    return [
        f"{name}: {words or 'nothing is said'}"
        for name, words in licences().items()
        if not PERMISSIVE.search(words)
    ]


def vulnerable() -> list[str] | None:
    """What OSV.dev knows of the releases that are pinned; None when it could not be asked."""
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pip_audit", "--vulnerability-service", "osv"),
                *("--requirement", str(CONSTRAINTS), "--disable-pip", "--no-deps"),
                *("--format", "json", "--output", str(answer), "--progress-spinner", "off"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        try:
            found = json.loads(answer.read_text(encoding="utf-8"))["dependencies"]
        except (OSError, ValueError):
            print((done.stderr.strip().splitlines() or ["no answer"])[-1], file=sys.stderr)
            return None
    return [
        f"{one['name']} {one['version']}: {fault['id']}"
        + (f", mended in {', '.join(fault['fix_versions'])}" if fault["fix_versions"] else "")
        for one in found
        for fault in one.get("vulns", ())
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--offline", action="store_true", help="ask nobody")
    asked = parser.parse_args()
    print(f"{len(installed())} packages are installed, {len(pins())} are pinned.")
    for words, wrong in (
        ("whole", broken()),
        ("as pinned", unpinned()),
        (f"{len(licences())} that run with gradhelm are under known licences", unlicensed()),
    ):
        print(f"{words}: {'yes' if not wrong else 'NO'}")
        if wrong:
            print(*(f"  {line}" for line in wrong), sep="\n")
            return 1
    if asked.offline:
        return 0
    known = vulnerable()
    if known is None:
        print("known vulnerabilities: NOT LOOKED AT, OSV.dev could not be asked from here")
        return NOT_LOOKED_AT
    print(f"known vulnerabilities: {len(known) or 'none'}")
    print(*(f"  {line}" for line in known), sep="\n", end="\n" if known else "")
    return int(bool(known))


if __name__ == "__main__":
    sys.exit(main())
