"""The ``gradhelm`` command. It alone knows every room, and enters each only when asked to.

Exit codes: 0 done, 1 failed (one line on stderr says why), 2 asked wrongly.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
import webbrowser
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from gradhelm import __version__
from gradhelm.errors import SettingsError

from .client import Client, Failed

if TYPE_CHECKING:
    from .settings import ServerSettings

Command = Callable[[argparse.Namespace], None]
WAIT = 0.2
"""Seconds between two looks while waiting for a run."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit with its code."""
    arguments = parser().parse_args(argv)
    try:
        arguments.command(arguments)
    except (Failed, SettingsError) as error:
        print(f"gradhelm: {error}", file=sys.stderr)
        sys.exit(1)
    except Usage as error:
        print(f"gradhelm: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has enough; keep Python from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(0)


class Usage(Exception):
    """The command was asked for in a way that cannot be done."""


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="gradhelm",
        description="See every gradient of a training job as it happens, and steer its clipping.",
    )
    top.add_argument("--version", action="version", version=f"gradhelm {__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, run: Command, text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        made.set_defaults(command=run)
        return made

    def add_json(made: argparse.ArgumentParser) -> None:
        made.add_argument("--json", action="store_true", help="print JSON")

    for name, run, text in (
        ("up", up, "start the server and the page here, on SQLite, and print the address to open"),
        ("demo", demo, "the same, with a real training run that explodes and can be saved"),
        ("serve", serve, "start the server and the page on a database that is up to date"),
    ):
        made = add(name, run, text)
        made.add_argument("--host", default="127.0.0.1", help="address to bind (%(default)s)")
        made.add_argument("--port", type=int, default=8642, help="port (%(default)s)")
        made.add_argument("--database-url", help="SQLAlchemy URL (GRADHELM_DATABASE_URL)")
        if name != "serve":
            made.add_argument("--no-browser", action="store_true", help="do not open a browser")
        if name == "demo":
            made.add_argument(
                "--steps", type=int, default=6000, help="training steps (%(default)s)"
            )

    add("link", link, "print a new one-time login link for the server of this machine")

    made = add("runs", list_runs, "list runs, newest first")
    made.add_argument("--project")
    made.add_argument("--status", choices=["live", "stale", "failed", "finished", "stopped"])
    made.add_argument("--limit", type=_positive, default=20, help="at most so many (%(default)s)")
    add_json(made)

    made = add("show", show, "show one run and its threshold")
    made.add_argument("run", metavar="RUN", help="id, unique prefix of it, or exact name")
    add_json(made)

    made = add("set", set_threshold, "change a run's threshold: gradhelm set RUN max_norm=0.5")
    made.add_argument("run", metavar="RUN", help="id, unique prefix of it, or exact name")
    made.add_argument("values", metavar="NAME=VALUE", nargs="+", type=_assignment)
    made.add_argument("--match", metavar="PATTERN", help="the rule of this pattern")
    made.add_argument("--reason", default="", help="why, for the history")
    made.add_argument("--wait", action="store_true", help="until the trainer has applied it")
    made.add_argument("--timeout", type=float, default=60.0, help="of --wait, s (%(default)s)")
    add_json(made)

    made = add("tail", tail, "follow a run: one line a step")
    made.add_argument("run", metavar="RUN", help="id, unique prefix of it, or exact name")
    made.add_argument("-n", "--steps", type=_positive, default=10, help="steps to begin with")
    made.add_argument("--columns", default="global_norm,threshold,clip_coef", help="%(default)s")
    add_json(made)

    made = add("token", lambda _: None, "make, list and revoke API tokens")
    actions = made.add_subparsers(metavar="ACTION", required=True)
    act = actions.add_parser("create", help="make a token; it is shown this once")
    act.add_argument("--role", required=True, choices=["viewer", "operator", "admin", "ingest"])
    act.add_argument("--name", default="", help="what it is for")
    act.add_argument("--expires", type=_duration, metavar="30d", help="life: 30d, 12h, 45m")
    act.set_defaults(command=token_create)
    add_json(act)
    act = actions.add_parser("list", help="list tokens (without their secrets)")
    act.set_defaults(command=token_list)
    add_json(act)
    act = actions.add_parser("revoke", help="make a token worthless")
    act.add_argument("id", metavar="ID", help="as `gradhelm token list` shows it")
    act.set_defaults(command=token_revoke)

    made = add("db", lambda _: None, "look after the server's database")
    actions = made.add_subparsers(metavar="ACTION", required=True)
    for name, run, text in (
        ("upgrade", db_upgrade, "bring the schema up to date (after a backup, for SQLite)"),
        ("current", db_current, "print the schema's revision"),
    ):
        act = actions.add_parser(name, help=text)
        act.add_argument("--database-url", help="SQLAlchemy URL (GRADHELM_DATABASE_URL)")
        act.set_defaults(command=run)
        add_json(act)

    made = add("doctor", doctor, "look for what commonly goes wrong, and say how to mend it")
    add_json(made)
    return top


# -- serving --------------------------------------------------------------------------------------


def up(arguments: argparse.Namespace) -> None:
    _serve(arguments, migrate=True, browser=not arguments.no_browser)


def serve(arguments: argparse.Namespace) -> None:
    _serve(arguments, migrate=False, browser=False)


def demo(arguments: argparse.Namespace) -> None:
    if not _installed("torch"):
        raise Usage("`gradhelm demo` trains a real model and needs torch: pip install torch")
    trainer: subprocess.Popen[bytes] | None = None

    def train(address: str) -> None:
        """Start to train, and come back when the first steps have arrived."""
        nonlocal trainer
        print("The server is up; a training run begins (loading torch takes seconds) …", flush=True)
        command = [sys.executable, "-m", "gradhelm.demo", "--steps", str(arguments.steps)]
        environment = {**os.environ, "GRADHELM_SERVER": address, "GRADHELM_MODE": "online"}
        environment.pop("GRADHELM_TOKEN", None)  # this server's own token file is the right one
        # A session of its own: Ctrl-C is for the server, which then ends the training in order.
        trainer = subprocess.Popen(command, env=environment, start_new_session=True)
        if not _steps_arrive(address, trainer):
            print("gradhelm: the training run did not begin; what it said is above", flush=True)
            return
        print(
            "\nA character-level LSTM is learning Python, with a threshold that is far too loose.\n"
            "Open its run, see it go wrong, and save it: set the threshold to 0.25.\n",
            flush=True,
        )

    def end() -> None:
        if trainer is not None and trainer.poll() is None:
            trainer.terminate()
            try:
                trainer.wait(10)
            except subprocess.TimeoutExpired:
                trainer.kill()

    _serve(arguments, migrate=True, browser=not arguments.no_browser, first=train, last=end)


def _steps_arrive(address: str, trainer: subprocess.Popen[bytes]) -> bool:
    """Whether a live run has steps, as soon as it is known."""
    from gradhelm.settings import data_directory, local_token

    client = Client(address, local_token(address, data_directory()))
    while trainer.poll() is None:
        live = client.ask("GET", "runs", query={"status": "live", "limit": 1}).body["runs"]
        if live and live[0]["steps"]:
            return True
        time.sleep(WAIT)
    return False


def _serve(
    arguments: argparse.Namespace,
    *,
    migrate: bool,
    browser: bool,
    first: Callable[[str], None] = lambda address: None,
    last: Callable[[], None] = lambda: None,
) -> None:
    """Serve; ``first(address)`` runs before the address is announced, ``last()`` at the end."""
    settings = _settings(arguments)
    from .serving import run

    def ready(address: str, login: str) -> None:
        first(address)
        print(f"gradhelm {__version__} is up at {address}")
        print(f"Open this link to log in (ten minutes, once):\n\n    {login}\n")
        print("Attach a job:  run = gradhelm.attach(model, optimizer, max_norm=1.0)")
        print("Ctrl-C ends the server.\n", flush=True)
        if browser and _has_display():
            webbrowser.open(login)

    mount = None
    if _installed("dash"):
        from gradhelm_dashboard.app import build_ui

        def mount(app: Any) -> list[str]:
            return list(build_ui(app, version=__version__).csp_hashes())

    else:
        print('No page: it comes with pip install "gradhelm[all]". REST is served all the same.')
    run(settings, mount=mount, migrate=migrate, ready=ready, ending=last)


def _settings(arguments: argparse.Namespace) -> ServerSettings:
    missing = [n for n in ("fastapi", "uvicorn", "sqlalchemy", "alembic") if not _installed(n)]
    if missing:
        raise Usage(
            f'{missing[0]} is not installed; the server comes with pip install "gradhelm[all]"'
        )
    from .settings import DEFAULT_PORT, ServerSettings

    return ServerSettings.read(
        host=getattr(arguments, "host", "127.0.0.1"),
        port=getattr(arguments, "port", DEFAULT_PORT),
        database_url=arguments.database_url,
    )


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _has_display() -> bool:
    return sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


# -- talking to a server --------------------------------------------------------------------------


def link(_: argparse.Namespace) -> None:
    client = Client.here()
    code = client.ask("POST", "login-links", body={}).body["code"]
    print(f"{client.server}/login#{code}")


def list_runs(arguments: argparse.Namespace) -> None:
    query = {"limit": arguments.limit}
    for name in ("project", "status"):
        if getattr(arguments, name):
            query[name] = getattr(arguments, name)
    page = Client.here().ask("GET", "runs", query=query).body
    if arguments.json:
        _print_json(page)
        return
    if not page["runs"]:
        print("no runs yet; attach a job: run = gradhelm.attach(model, optimizer, max_norm=1.0)")
        return
    rows = [("ID", "NAME", "STATUS", "STEP", "NORM", "THRESHOLD", "CLIPPED", "HEARD")]
    for run in page["runs"]:
        rows.append(
            (
                run["id"],
                _safe(run["name"]),
                run["status"],
                _count(run["last_step"]),
                _number(run["global_norm"]),
                _number(run["threshold"]),
                _share(run["clip_fraction"]),
                _ago(run["last_heard_at"]),
            )
        )
    _print_table(rows)
    if page["next_cursor"]:
        print(f"… and more: gradhelm runs --limit {arguments.limit * 5}")


def show(arguments: argparse.Namespace) -> None:
    client = Client.here()
    run = client.find(arguments.run)
    control = client.ask("GET", f"runs/{run['id']}/control").body
    history = client.ask("GET", f"runs/{run['id']}/control/history").body["versions"]
    if arguments.json:
        _print_json({**run, "control": control, "history": history})
        return
    recent = run["recent"]
    reason = f" ({_safe(run['status_reason'])})" if run["status_reason"] else ""
    threshold = f"{run['threshold_name']} = {_number(run['threshold'])}"
    limits = control["limits"].get(run["threshold_name"]) if control["limits"] else None
    rows = [
        ("run", f"{_safe(run['name'])}  {run['id']}"),
        ("page", f"{client.server}/runs/{run['id']}"),
        ("project", _safe(run["project"])),
        ("status", run["status"] + reason),
        ("steps", f"{run['steps']:,} recorded, newest {_count(run['last_step'])}"),
        ("strategy", _safe(run["strategy"])),
        ("threshold", threshold if run["threshold_name"] else "none: observing only"),
        (
            "may be set",
            f"{limits['min']:g} to {limits['max']:g}"
            if limits
            else f"no: {_safe(control['why_read_only'] or 'read-only')}",
        ),
        ("global norm", _number(run["global_norm"])),
        ("clipped", f"{_share(run['clip_fraction'])} of all steps"),
        ("non-finite", f"{run['nonfinite']:,} steps"),
    ]
    if recent:
        rows.append(("of late", f"{_share(recent['clip_fraction'])} of {recent['steps']} clipped"))
    for label, text in rows:
        print(f"{label:<12} {text}")
    for version in history[:10]:
        values = ", ".join(
            f"{k} {_number(version['from'].get(k))} → {_number(v)}"
            for k, v in version["to"].items()
        )
        step = f" at step {version['step']:,}" if version["step"] is not None else ""
        print(
            f"version {version['version']:<4} {values}  {version['status']}{step}, "
            f"by {_safe(version['author'])} {_ago(version['at'])}  {_safe(version['reason'])}".rstrip()
        )


def set_threshold(arguments: argparse.Namespace) -> None:
    client = Client.here()
    run = client.find(arguments.run)
    path = f"runs/{run['id']}/control"
    etag = client.ask("GET", path).etag or ""
    body = {**dict(arguments.values), "match": arguments.match, "reason": arguments.reason}
    document = client.ask("PUT", path, body=body, headers={"If-Match": etag}).body
    version = document["version"]
    if arguments.wait:
        entry = _wait_for(client, run["id"], version, arguments.timeout)
    else:
        entry = {"version": version, "status": document["status"], "step": None}
    if arguments.json:
        _print_json(entry)
    elif entry["status"] == "applied":
        print(f"version {version} applied at step {entry['step']}")
    else:
        print(f"version {version} {entry['status']}; --wait waits until the trainer applied it")


def _wait_for(client: Client, run: str, version: int, timeout: float) -> dict[str, Any]:
    """The history entry of a version once its fate is known. Raises Failed if that is not good."""
    deadline = time.monotonic() + timeout
    while True:
        history = client.ask("GET", f"runs/{run}/control/history").body["versions"]
        entry: dict[str, Any] = next(e for e in history if e["version"] == version)
        if entry["status"] == "applied":
            return entry
        if entry["status"] not in ("pending", "delivered"):
            why = f": {entry['why']}" if entry["why"] else ""
            raise Failed(f"version {version} was {entry['status']}{why}")
        if time.monotonic() > deadline:
            raise Failed(f"version {version} is still {entry['status']} after {timeout:g} s")
        time.sleep(WAIT)


def tail(arguments: argparse.Namespace) -> None:
    client = Client.here()
    run = client.find(arguments.run)
    names = arguments.columns.split(",")
    first, width = -arguments.steps, max(12, *map(len, names))
    if not arguments.json:
        print(f"{'step':>10}  " + "  ".join(f"{name:>{width}}" for name in names))
    while True:
        query = {"columns": arguments.columns, "first": first, "points": 20_000}
        columns = client.ask("GET", f"runs/{run['id']}/series", query=query).body["columns"]
        rows: dict[int, dict[str, float | None]] = {}
        for name in names:
            for step, value in zip(columns[name]["step"], columns[name]["mean"], strict=True):
                rows.setdefault(step, {})[name] = value
        for step in sorted(rows):
            if arguments.json:
                print(json.dumps({"step": step, **rows[step]}), flush=True)
            else:
                cells = (f"{_number(rows[step].get(name)):>{width}}" for name in names)
                print(f"{step:>10}  " + "  ".join(cells), flush=True)
        if rows:
            first = max(rows) + 1
        state = client.ask("GET", f"runs/{run['id']}").body
        if state["status"] in ("finished", "failed", "stopped") and not rows:
            if not arguments.json:
                print(f"the run has {state['status']}")
            return
        time.sleep(WAIT)


def token_create(arguments: argparse.Namespace) -> None:
    body = {"role": arguments.role, "name": arguments.name, "expires_in": arguments.expires}
    made = Client.here().ask("POST", "tokens", body=body).body
    if arguments.json:
        _print_json(made)
    else:
        print(made["token"])
        print("This token is not shown again. Use it as GRADHELM_TOKEN.", file=sys.stderr)


def token_list(arguments: argparse.Namespace) -> None:
    found = Client.here().ask("GET", "tokens").body
    if arguments.json:
        _print_json(found)
        return
    rows = [("ID", "NAME", "ROLE", "CREATED", "LAST USED", "STATE")]
    for token in found["tokens"]:
        state = "revoked" if token["revoked_at"] else f"expires {token['expires_at'] or 'never'}"
        used = _ago(token["last_used_at"]) if token["last_used_at"] else "never"
        rows.append(
            (
                token["id"],
                _safe(token["name"]),
                token["role"],
                _ago(token["created_at"]),
                used,
                state,
            )
        )
    _print_table(rows)


def token_revoke(arguments: argparse.Namespace) -> None:
    Client.here().ask("DELETE", f"tokens/{arguments.id}")
    print(f"token {arguments.id} is revoked")


# -- the database ---------------------------------------------------------------------------------


def db_upgrade(arguments: argparse.Namespace) -> None:
    settings = _settings(arguments)
    import gradhelm_migrations as migrations

    from .serving import holding, prepare

    with holding(settings):
        before = migrations.current(settings.database_url)
        prepare(settings, migrate=True)
        after = migrations.current(settings.database_url)
    if arguments.json:
        _print_json({"before": before, "after": after})
    elif before == after:
        print(f"the database is up to date (revision {after})")
    else:
        print(f"revision {before or 'none'} → {after}")


def db_current(arguments: argparse.Namespace) -> None:
    settings = _settings(arguments)
    import gradhelm_migrations as migrations

    from .serving import database_file

    path = database_file(settings.database_url)
    exists = path is None or path.exists()
    current = migrations.current(settings.database_url) if exists else None
    if arguments.json:
        _print_json({"current": current, "needed": migrations.head()})
    else:
        print(f"{current or 'none'} (this program needs {migrations.head()})")


# -- doctor ---------------------------------------------------------------------------------------


def doctor(arguments: argparse.Namespace) -> None:
    checks = [*_check_packages(), *_check_home(), *_check_server()]
    if arguments.json:
        _print_json({"checks": [dict(zip(("ok", "what", "mend"), c, strict=True)) for c in checks]})
    else:
        for good, what, mend in checks:
            print(f"{'ok  ' if good else 'BAD '} {what}" + (f"\n     → {mend}" if mend else ""))
    bad = sum(not good for good, _, _ in checks)
    if bad:
        raise Failed(f"{bad} of {len(checks)} checks found something")


Check = tuple[bool, str, str]


def _check_packages() -> list[Check]:
    found = sys.version_info >= (3, 11)
    checks: list[Check] = [
        (found, f"Python {sys.version.split()[0]}", "" if found else "use 3.11+")
    ]
    for name, needed_for, mend in (
        ("torch", "the hook", "pip install torch"),
        ("fastapi", "the server", 'pip install "gradhelm[server]"'),
        ("dash", "the page", 'pip install "gradhelm[all]"'),
    ):
        there = _installed(name)
        text = f"{name} for {needed_for}" if there else f"no {name}; {needed_for} needs it"
        # Only what this machine is used for must be there, so a missing part is told, not blamed.
        checks.append((True, text, "" if there else mend))
    return checks


def _check_home() -> list[Check]:
    from gradhelm.settings import data_directory

    home = data_directory()
    if not home.exists():
        return [(True, f"data directory {home}: made by the first `gradhelm up`", "")]
    writable = os.access(home, os.W_OK)
    checks: list[Check] = [
        (writable, f"data directory {home} can be written", "" if writable else f"chown {home}")
    ]
    free = shutil.disk_usage(home).free
    enough = free > 2**30
    checks.append((enough, f"{free / 2**30:.1f} GiB free there", "" if enough else "make room"))
    token = home / "token"
    if token.exists() and os.name == "posix":
        private = not token.stat().st_mode & 0o077
        checks.append(
            (
                private,
                "the token file is readable by you alone",
                "" if private else f"chmod 600 {token}",
            )
        )
    return checks


def _check_server() -> list[Check]:
    client = Client.here()
    try:
        answer = client.ask("GET", "server").body
    except Failed as error:
        return [(False, str(error), "start it, or set GRADHELM_SERVER and GRADHELM_TOKEN")]
    same = answer["version"] == __version__
    mend = "" if same else f"this program is {__version__}: install the same version on both sides"
    return [
        (True, f"{client.server} answers; you are {answer['user']['role']} there", ""),
        (same, f"the server is version {answer['version']}", mend),
    ]


# -- words and numbers ----------------------------------------------------------------------------


def _assignment(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not name or not equals or not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=VALUE such as max_norm=0.5")
    return name, number


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 500:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number from 1 to 500")
    return int(text)


def _duration(text: str) -> float:
    match = re.fullmatch(r"(\d{1,6})([dhm])", text)
    if match is None or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a time such as 30d, 12h or 45m")
    return int(match[1]) * {"d": 86400.0, "h": 3600.0, "m": 60.0}[match[2]]


def _safe(text: str) -> str:
    """Names come from strangers: nothing in them may move the cursor or start a line."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _ago(moment: str) -> str:
    seconds = time.time() - datetime.fromisoformat(moment).timestamp()
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{int(seconds // unit)} {name} ago"
    return f"{max(0, int(seconds))} s ago"


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
