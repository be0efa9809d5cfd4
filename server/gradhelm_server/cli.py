"""The ``gradhelm`` command. It alone knows every room, and enters each only when asked to.

Exit codes: 0 done, 1 failed (one line on stderr says why), 2 asked wrongly.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import re
import subprocess
import sys
import time
import webbrowser
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from gradhelm import __version__, address, redact
from gradhelm.errors import GradhelmError
from gradhelm.rest import Client

from . import access, commands, taken
from .endings import Failed, Usage
from .words import print_json

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from .reach import Reach
    from .settings import ServerSettings

Command = Callable[[argparse.Namespace], None]


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit with its code."""
    redact.everywhere()
    arguments = parser().parse_args(argv)
    try:
        arguments.command(arguments)
    except GradhelmError as error:
        print(f"gradhelm: {redact.harmless(error)}", file=sys.stderr)
        sys.exit(1)
    except Usage as error:
        print(f"gradhelm: {redact.harmless(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output has enough; keep Python from complaining about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    sys.exit(0)


def parser() -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="gradhelm",
        description="See every gradient of a training job as it happens, and steer its clipping.",
    )
    top.add_argument("--version", action="version", version=f"gradhelm {__version__}")
    subcommands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, run: Command, text: str) -> argparse.ArgumentParser:
        made = subcommands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        made.set_defaults(command=run)
        return made

    def add_json(made: argparse.ArgumentParser) -> None:
        made.add_argument("--json", action="store_true", help="print JSON")

    def add_part(made: argparse.ArgumentParser) -> None:
        made.add_argument(
            "--first", type=int, metavar="N", help="from step N; -N: the newest N steps"
        )
        made.add_argument("--last", type=_step, metavar="N", help="up to step N")
        made.add_argument("--stream", metavar="NAME", help="of one of several optimizers")

    for name, run, text in (
        ("up", up, "start the server and the page here, on SQLite, and print the address to open"),
        ("demo", demo, "the same, with a real training run that explodes and can be saved"),
        ("serve", serve, "start the server and the page on a database that is up to date"),
    ):
        made = add(name, run, text)
        made.add_argument("--host", default="127.0.0.1", help="address to bind (%(default)s)")
        made.add_argument("--port", type=int, default=8642, help="port (%(default)s)")
        made.add_argument("--tls-cert", metavar="FILE", help="certificate (GRADHELM_TLS_CERT)")
        made.add_argument("--tls-key", metavar="FILE", help="its private key (GRADHELM_TLS_KEY)")
        made.add_argument(
            "--insecure-http",
            action="store_true",
            help="serve another address than 127.0.0.1 without https all the same",
        )
        made.add_argument("--database-url", help="SQLAlchemy URL (GRADHELM_DATABASE_URL)")
        if name != "serve":
            made.add_argument("--no-browser", action="store_true", help="do not open a browser")
        if name == "demo":
            made.add_argument(
                "--steps", type=int, default=6000, help="training steps (%(default)s)"
            )

    add("link", access.link, "print a new one-time login link for the server of this machine")

    made = add("runs", commands.list_runs, "list runs, newest first")
    made.add_argument("--project")
    made.add_argument("--status", choices=["live", "stale", "failed", "finished", "stopped"])
    made.add_argument("--limit", type=_positive, default=20, help="at most so many (%(default)s)")
    add_json(made)

    made = add("show", commands.show, "show one run and its threshold")
    made.add_argument("run", metavar="RUN", help="id, unique prefix of it, or exact name")
    made.add_argument(
        "--advice",
        action="store_true",
        help="say what is wrong with its gradients, and which thresholds to try",
    )
    add_json(made)

    made = add(
        "set", commands.set_threshold, "change a run's threshold: gradhelm set RUN max_norm=0.5"
    )
    made.add_argument("run", metavar="RUN", help="id, unique prefix of it, or exact name")
    made.add_argument(
        "values",
        metavar="NAME=VALUE",
        nargs="*",
        type=_assignment,
        help="the strategy's own values, and lr_factor (what learning rates are multiplied by)",
    )
    made.add_argument(
        "--roll-back-to", type=_version, metavar="V", help="the whole document of version V"
    )
    made.add_argument(
        "--not-before", type=_step, metavar="N", help="step N is the first to have it"
    )
    made.add_argument("--ttl", type=_steps, metavar="N", help="for N steps, then back by itself")
    made.add_argument(
        "--within", type=_steps, metavar="W", help="steps that --revert-… judge it by"
    )
    made.add_argument(
        "--revert-if-nonfinite",
        action="store_true",
        help="back by itself when the loss or the norm is not finite",
    )
    made.add_argument(
        "--revert-band",
        type=_band,
        metavar="LOW:HIGH",
        help="back by itself when a share of the steps outside LOW to HIGH was clipped",
    )
    made.add_argument("--match", metavar="PATTERN", help="the rule of this pattern")
    made.add_argument("--stream", metavar="NAME", help="of several optimizers (the first)")
    made.add_argument("--reason", default="", help="why, for the history")
    made.add_argument("--wait", action="store_true", help="until the trainer has applied it")
    made.add_argument("--timeout", type=float, default=60.0, help="of --wait, s (%(default)s)")
    add_json(made)

    made = add("stop", commands.stop, "ask a run to stop, which its script has to allow")
    made.add_argument("run", metavar="RUN", help="id, unique prefix of it, or exact name")
    made.add_argument("--reason", default="", help="why, for the history")
    made.add_argument("--wait", action="store_true", help="until the trainer has taken it up")
    made.add_argument("--timeout", type=float, default=60.0, help="of --wait, s (%(default)s)")
    add_json(made)

    made = add("tail", commands.tail, "follow a run: one line a step")
    made.add_argument("run", metavar="RUN", help="id, unique prefix of it, or exact name")
    made.add_argument("-n", "--steps", type=_positive, default=10, help="steps to begin with")
    made.add_argument("--columns", default="global_norm,threshold,clip_coef", help="%(default)s")
    made.add_argument("--stream", metavar="NAME", help="of several optimizers (the first)")
    add_json(made)

    made = add("token", lambda _: None, "make, list and revoke API tokens")
    actions = made.add_subparsers(metavar="ACTION", required=True)
    act = actions.add_parser("create", help="make a token; it is shown this once")
    act.add_argument(
        "--role", required=True, choices=["viewer", "operator", "admin", "ingest", "metrics"]
    )
    act.add_argument("--project", default="*", help="in this project (all)")
    act.add_argument("--name", default="", help="what it is for")
    act.add_argument("--expires", type=_duration, metavar="30d", help="life: 30d, 12h, 45m")
    act.set_defaults(command=access.token_create)
    add_json(act)
    act = actions.add_parser("list", help="list tokens (without their secrets)")
    act.set_defaults(command=access.token_list)
    add_json(act)
    act = actions.add_parser("revoke", help="make a token worthless, and end what it has open")
    act.add_argument("id", metavar="ID", help="as `gradhelm token list` shows it")
    act.set_defaults(command=access.token_revoke)

    made = add("user", lambda _: None, "make accounts for people, and say what they may do where")
    _people(made.add_subparsers(metavar="ACTION", required=True), add_json)

    made = add(
        "sync",
        commands.sync,
        "bring what offline runs have kept to a server; may be stopped, and repeated",
    )
    made.add_argument(
        "folder",
        type=Path,
        nargs="?",
        metavar="DIR",
        help="of a run, of a segment, or of many (default: GRADHELM_SPOOL)",
    )
    made.add_argument("--server", help="its URL (GRADHELM_SERVER)")
    made.add_argument("--token", help="may report runs (GRADHELM_TOKEN)")
    add_json(made)

    made = add(
        "prune",
        commands.prune,
        "remove deleted runs, and norms of single steps that are old or beyond a quota",
    )
    made.add_argument(
        "--keep-steps",
        type=_duration,
        metavar="30d",
        help="how long norms of single steps are kept (GRADHELM_KEEP_STEPS of the server)",
    )
    made.add_argument(
        "--quota",
        type=_size,
        metavar="10GB",
        help="what each project may take (GRADHELM_QUOTA of the server)",
    )
    made.add_argument("--dry-run", action="store_true", help="say what would go, remove nothing")
    add_json(made)

    made = add("whatif", whatif, "say what other strategies would have done to a run's norms")
    made.add_argument("run", metavar="RUN", help="id, unique prefix of it, or exact name")
    made.add_argument(
        "strategies",
        metavar="STRATEGY",
        nargs="+",
        help="as in a script: 'GlobalNorm(0.5)', 'AutoClip(percentile=90)', …",
    )
    add_part(made)
    add_json(made)

    made = add("export", taken.export, "take a run along as a file: every step, every column")
    made.add_argument("run", metavar="RUN", help="id, unique prefix of it, or exact name")
    made.add_argument("--format", choices=["csv", "jsonl", "parquet", "tensorboard"], required=True)
    made.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="PATH",
        help="a file, or a folder for TensorBoard (default: standard output)",
    )
    made.add_argument("--columns", metavar="NAMES", help="these alone, by comma")
    add_part(made)
    made.add_argument("--force", action="store_true", help="replace what is there")
    add_json(made)

    made = add("import", bring, "make a run out of a file that was measured elsewhere")
    made.add_argument("path", type=Path, metavar="PATH", help="a file, or TensorBoard's folder")
    made.add_argument(
        "--format",
        choices=["csv", "jsonl", "parquet", "tensorboard"],
        help="default: by its name",
    )
    made.add_argument("--global-norm", metavar="COLUMN", help="which column is the global norm")
    made.add_argument(
        "--norms",
        action="append",
        metavar="PATTERN",
        help="which are norms of single parameters, such as 'grad/*'; may be said again",
    )
    made.add_argument(
        "--max-norm",
        type=_above_zero,
        metavar="X",
        help="what was clipped at; the norms are those before the clip",
    )
    made.add_argument("--step", metavar="COLUMN", help="which column is the step")
    made.add_argument("--time", metavar="COLUMN", help="which column is the time")
    made.add_argument("--name", type=_name, help="of the run (default: the file's)")
    made.add_argument("--project", type=_name, default="default", help="(%(default)s)")
    made.add_argument("--tag", action="append", type=_name, help="may be said again")
    add_json(made)

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

    made = add("audit", lambda _: None, "who did what, and whether that record is whole")
    actions = made.add_subparsers(metavar="ACTION", required=True)
    act = actions.add_parser("verify", help="look at every entry; exits with 1 if one was changed")
    act.add_argument(
        "--head", metavar="HASH", help="one that was kept elsewhere: is it still there?"
    )
    act.set_defaults(command=audit_verify)
    add_json(act)
    act.add_argument("--database-url", help="SQLAlchemy URL (GRADHELM_DATABASE_URL)")
    act = actions.add_parser("list", help="the newest entries, newest first")
    act.add_argument("--run", metavar="ID", help="of this run alone")
    act.add_argument("--limit", type=_positive, default=20, help="at most so many (%(default)s)")
    act.set_defaults(command=audit_list)
    add_json(act)
    act.add_argument("--database-url", help="SQLAlchemy URL (GRADHELM_DATABASE_URL)")

    made = add("bench", lambda _: None, "measure a server")
    actions = made.add_subparsers(metavar="ACTION", required=True)
    act = actions.add_parser(
        "load",
        help="simulate many trainers and viewers, and say how the server bears them",
        description="Simulate trainers that report to a server at a real pace, and say how it "
        "bears them. Their runs are in the project `load`, and are deleted at the end.",
    )
    act.add_argument("--runs", type=_count, default=500, help="trainers (%(default)s)")
    act.add_argument("--layers", type=_count, default=300, help="layers of each (%(default)s)")
    act.add_argument("--rate", type=_rate, default=10.0, help="steps/s of each (%(default)s)")
    act.add_argument(
        "--duration", type=_duration, default=60.0, metavar="60s", help="once all are there (60s)"
    )
    act.add_argument(
        "--viewers", type=_count_or_none, default=0, help="pages that watch them (%(default)s)"
    )
    act.add_argument("--server", type=_url, help="its URL (GRADHELM_SERVER)")
    act.add_argument("--token", help="may control runs (GRADHELM_TOKEN)")
    act.add_argument("--keep", action="store_true", help="do not delete the runs at the end")
    act.set_defaults(command=commands.bench_load)
    add_json(act)

    made = add("doctor", doctor, "look for what commonly goes wrong, and say how to mend it")
    made.add_argument(
        "--steps", type=_positive, default=20, help="optimizer steps to watch of the script (20)"
    )
    made.add_argument(
        "--script",
        nargs=argparse.REMAINDER,
        metavar=("TRAIN.PY", "ARGUMENTS"),
        help="instead, run a training script for some steps and look at how it clips; comes last",
    )
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
        # This Python and a module of ours; the only argument from outside is a number.
        trainer = subprocess.Popen(  # nosec B603
            command, env=environment, start_new_session=True
        )
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
        time.sleep(0.1)
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

    def ready(how: Reach, code: str) -> None:
        first(how.address)
        login = f"{how.public}/login#{code}"
        print(f"gradhelm {__version__} is up at {how.address}")
        for word in how.words:
            print(f"  {word}")
        for warning in how.warnings:
            print(f"gradhelm: {warning}", file=sys.stderr)
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
        tls_cert=getattr(arguments, "tls_cert", None),
        tls_key=getattr(arguments, "tls_key", None),
        insecure_http=getattr(arguments, "insecure_http", False),
    )


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def _has_display() -> bool:
    return sys.platform in ("darwin", "win32") or bool(
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    )


# -- the database ---------------------------------------------------------------------------------


def db_upgrade(arguments: argparse.Namespace) -> None:
    settings = _settings(arguments)
    from .serving import holding, prepare, revision

    with holding(settings):
        before = revision(settings.database_url)
        prepare(settings, migrate=True)
        after = revision(settings.database_url)
    if arguments.json:
        print_json({"before": before, "after": after})
    elif before == after:
        print(f"the database is up to date (revision {after})")
    else:
        print(f"revision {before or 'none'} → {after}")


def db_current(arguments: argparse.Namespace) -> None:
    settings = _settings(arguments)
    import gradhelm_migrations as migrations

    from .serving import database_file, revision

    path = database_file(settings.database_url)
    exists = path is None or path.exists()
    current = revision(settings.database_url) if exists else None
    if arguments.json:
        print_json({"current": current, "needed": migrations.head()})
    else:
        print(f"{current or 'none'} (this program needs {migrations.head()})")


def audit_verify(arguments: argparse.Namespace) -> None:
    from . import audit

    with _database(arguments) as connection:
        found = audit.verify(connection, arguments.head)
    if arguments.json:
        print_json(found.shown())
    elif found.whole:
        since = f" since {found.shown()['since']}" if found.entries else ""
        print(f"{found.entries:,} entries{since}, all as they were written")
        print(f"head {found.head}")
    if found.bad is not None:
        raise Failed(f"entry {found.bad} is not as it was written: {found.what}")
    if not found.whole:
        raise Failed(
            f"{arguments.head} is not in the chain: entries are missing, or it is not ours"
        )


def audit_list(arguments: argparse.Namespace) -> None:
    from . import audit

    with _database(arguments) as connection:
        entries = audit.listed(connection, arguments.run, arguments.limit)
    if arguments.json:
        print_json({"entries": entries})
    else:
        commands.print_audit(entries)


@contextmanager
def _database(arguments: argparse.Namespace) -> Iterator[Connection]:
    """The database itself, to read. Raises Failed when it is not there, or of another schema."""
    settings = _settings(arguments)
    import gradhelm_migrations as migrations

    from .serving import database_file, revision
    from .store import Store

    path = database_file(settings.database_url)
    if path is not None and not path.exists():
        raise Failed(f"there is no database {path}")
    current, head = revision(settings.database_url), migrations.head()
    if current != head:
        raise Failed(f"the database is at revision {current}, this program needs {head}")
    with closing(Store(settings.database_url)) as store, store.reading() as connection:
        yield connection


def doctor(arguments: argparse.Namespace) -> None:
    from .doctor import check_script, checks

    if arguments.script is not None:
        told = check_script(arguments.script, arguments.steps)
        if arguments.json:
            print_json({name: told[name] for name in ("steps", "findings", "why")})
        else:
            print(told["text"])
        if told["why"]:
            raise Failed(told["why"])
        if told["findings"]:
            raise Failed(f"{arguments.script[0]}: {len(told['findings'])} findings")
        return
    found = checks()
    if arguments.json:
        print_json({"checks": [check._asdict() for check in found]})
    else:
        for check in found:
            mend = f"\n     → {check.mend}" if check.mend else ""
            print(f"{'ok  ' if check.ok else 'BAD '} {check.what}{mend}")
    bad = sum(not check.ok for check in found)
    if bad:
        raise Failed(f"{bad} of {len(found)} checks found something")


# -- what arguments may be -------------------------------------------------------------------------


def _assignment(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not name or not equals or not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text!r}: expected NAME=VALUE such as max_norm=0.5")
    return name, number


def _whole(least: int, most: int) -> Callable[[str], int]:
    """Reads a whole number between the two."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(
                f"{text!r}: expected a whole number from {least:,} to {most:,}"
            )
        return int(text)

    return read


_positive = _whole(1, 500)
_count = _whole(1, 10_000)
_count_or_none = _whole(0, 10_000)
_step = _version = _whole(0, 999_999_999)
_steps = _whole(1, 999_999_999)


def _band(text: str) -> tuple[float, float]:
    try:
        low, high = map(float, text.split(":"))
    except ValueError:
        low = high = math.nan
    if not 0 <= low <= high <= 1:
        raise argparse.ArgumentTypeError(
            f"{text!r}: expected LOW:HIGH, two shares from 0 to 1 such as 0.01:0.5"
        )
    return low, high


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not 0.01 <= rate <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r}: expected steps per second, 0.01 to 10,000")
    return rate


def _url(text: str) -> str:
    try:
        return address.checked(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _people(actions: Any, add_json: Callable[[argparse.ArgumentParser], None]) -> None:
    """The actions of ``gradhelm user``."""

    def add(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = actions.add_parser(name, help=text, description=text)
        made.set_defaults(command=command)
        return made

    def add_grants(made: argparse.ArgumentParser) -> None:
        made.add_argument(
            "--role",
            dest="grants",
            action="append",
            required=True,
            type=_grant,
            metavar="ROLE[@PROJECT]",
            help="viewer, operator or admin; without @PROJECT in all projects; may be repeated",
        )

    def add_stdin(made: Any) -> None:
        made.add_argument(
            "--password-stdin", action="store_true", help="read the password from stdin"
        )

    made = add("add", access.user_add, "make an account; asks for a password")
    made.add_argument("name", metavar="NAME")
    add_grants(made)
    ways = made.add_mutually_exclusive_group()
    add_stdin(ways)
    ways.add_argument("--link", action="store_true", help="print a link to come in by instead")
    add_json(made)
    add_json(add("list", access.user_list, "list accounts and what they may do"))
    made = add("grant", access.user_grant, "give an account other roles, in place of those it has")
    made.add_argument("name", metavar="NAME")
    add_grants(made)
    made = add("password", access.user_password, "set a password, and end all sessions")
    made.add_argument("name", metavar="NAME")
    add_stdin(made)
    for name, command, text in (
        ("link", access.user_link, "print a one-time link by which somebody comes in"),
        ("disable", access.user_disable, "let an account and its tokens in no more"),
        ("enable", access.user_enable, "let an account in again"),
        ("remove", access.user_remove, "remove an account, its sessions and its tokens"),
    ):
        add(name, command, text).add_argument("name", metavar="NAME")


def whatif(arguments: argparse.Namespace) -> None:
    from . import replayed  # and torch with it

    replayed.whatif(arguments)


def bring(arguments: argparse.Namespace) -> None:
    from . import brought  # and numpy with it, which no other command waits for

    brought.bring(arguments)


def _grant(text: str) -> tuple[str, str]:
    """(project, role) of ROLE or ROLE@PROJECT."""
    role, at, project = text.partition("@")
    if role not in ("viewer", "operator", "admin") or (at and not project):
        raise argparse.ArgumentTypeError(f"{text!r}: expected viewer, operator@vision or admin")
    return project or "*", role


def _above_zero(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a finite number above 0")
    return value


def _name(text: str) -> str:
    from gradhelm import wire

    if not 0 < len(text) <= wire.MAX_NAME or "\0" in text:
        raise argparse.ArgumentTypeError(f"expected 1 to {wire.MAX_NAME} characters")
    return text


def _duration(text: str) -> float:
    from .settings import duration

    try:
        return duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _size(text: str) -> int:
    from .settings import size

    try:
        return size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
