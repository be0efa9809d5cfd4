"""The commands that talk to a server: what they ask, and how they say what it answered."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gradhelm import settings
from gradhelm.errors import SpoolError
from gradhelm.rest import Client

from .endings import Failed, Usage
from .words import ago, count, number, print_advice, print_json, print_table, safe, share

if TYPE_CHECKING:
    from .figures import Figures, Spread
    from .load import Load, Plan

WAIT = 0.2
"""Seconds between two looks while waiting for a run."""


def sync(arguments: argparse.Namespace) -> None:
    from gradhelm import spool
    from gradhelm.delivery import Undelivered, deliver

    found = settings.read(os.environ)
    folder = arguments.folder or found.spool
    if arguments.folder is not None and not folder.is_dir():
        raise Failed(f"there is no folder {folder}")
    client = Client.here(arguments.server, arguments.token)
    done: list[tuple[str, Any]] = []
    failures: list[tuple[str, str]] = []
    segments = spool.segments(folder) if folder.is_dir() else []

    def progress(at: Any) -> None:
        if not arguments.json:
            print(f"{safe(at.name)}: {at.records:,} records so far …", file=sys.stderr)

    for segment in segments:
        try:
            delivered = deliver(segment, client.server, client.token, progress)
        except (Undelivered, SpoolError) as error:
            failures.append((str(segment), str(error)))
            if not arguments.json:
                print(f"{segment}: {safe(str(error))}", file=sys.stderr)
            continue
        done.append((str(segment), delivered))
        if not arguments.json:
            print(_delivered(delivered))
    if arguments.json:
        told = [{"folder": folder, **asdict(one)} for folder, one in done]
        print_json({"delivered": told, "failed": [dict(folder=f, why=w) for f, w in failures]})
    elif not segments:
        print(f"nothing is kept in {folder}")
    if failures:
        raise Failed(f"{len(failures)} of {len(segments)} could not be delivered; they are kept")


def _delivered(done: Any) -> str:
    """One segment in a line."""
    parts = [f"{done.records:,} records with {done.steps:,} steps sent"]
    if done.before:
        parts.append(f"{done.before:,} were there before")
    if done.missing:
        parts.append(f"{done.missing:,} could not be read, and are declared missing")
    if done.going_on:
        parts.append("the run goes on")
    else:
        parts.append("all is delivered and removed here")
    if done.lost:
        parts.append("the process was killed: what it measured last may be missing")
    return f"{safe(done.name)} ({done.run}): {'; '.join(parts)}"


def prune(arguments: argparse.Namespace) -> None:
    body: dict[str, Any] = {"dry_run": arguments.dry_run}
    if arguments.keep_steps is not None:
        body["keep_steps"] = arguments.keep_steps
    if arguments.quota is not None:
        body["quota"] = arguments.quota
    done = Client.here().ask("POST", "prune", body=body).body
    if arguments.json:
        print_json(done)
        return
    verb = "would be" if arguments.dry_run else "were"
    print(
        f"{done['runs_removed']} deleted runs {verb} removed, {done['runs_cut']} runs {verb} cut "
        f"to sixteen steps a norm: {done['bytes'] / 1e6:.1f} MB"
    )
    for project, over in done["over_quota"].items():
        print(f"project {safe(project)} is still {over / 1e6:.1f} MB too large: delete some runs")


def list_runs(arguments: argparse.Namespace) -> None:
    query = {"limit": arguments.limit}
    for name in ("project", "status"):
        if getattr(arguments, name):
            query[name] = getattr(arguments, name)
    page = Client.here().ask("GET", "runs", query=query).body
    if arguments.json:
        print_json(page)
        return
    if not page["runs"]:
        print("no runs yet; attach a job: run = gradhelm.attach(model, optimizer, max_norm=1.0)")
        return
    rows = [("ID", "NAME", "STATUS", "STEP", "NORM", "THRESHOLD", "CLIPPED", "HEARD")]
    for run in page["runs"]:
        rows.append(
            (
                run["id"],
                safe(run["name"]),
                run["status"],
                count(run["last_step"]),
                number(run["global_norm"]),
                number(run["threshold"]),
                share(run["clip_fraction"]),
                ago(run["last_heard_at"]),
            )
        )
    print_table(rows)
    if page["next_cursor"]:
        print(f"… and more: gradhelm runs --limit {arguments.limit * 5}")


def show(arguments: argparse.Namespace) -> None:
    client = Client.here()
    run = client.find(arguments.run)
    control = client.ask("GET", f"runs/{run['id']}/control").body
    history = client.ask("GET", f"runs/{run['id']}/control/history").body["versions"]
    told = {**run, "control": control, "history": history}
    if arguments.advice:
        told["advice"] = [_advice(client, run["id"], rule) for rule in control["rules"]]
    if arguments.json:
        print_json(told)
        return
    recent, factor = run["recent"], control["applied"]["lr_factor"]
    reason = f" ({safe(run['status_reason'])})" if run["status_reason"] else ""
    rows = [
        ("run", f"{safe(run['name'])}  {run['id']}"),
        ("page", f"{client.server}/runs/{run['id']}"),
        ("project", safe(run["project"])),
        ("status", run["status"] + reason),
        ("steps", f"{run['steps']:,} recorded, newest {count(run['last_step'])}"),
        *(("strategy" if n == 0 else "", _rule(rule)) for n, rule in enumerate(control["rules"])),
        *([("learning rate", f"times {factor:g}")] if factor != 1 else []),
        *([("stop", "asked for")] if control["stop"] else []),
        *([("may be set", f"no: {safe(why)}")] if (why := control["why_read_only"]) else []),
        ("global norm", number(run["global_norm"])),
        ("clipped", f"{share(run['clip_fraction'])} of all steps"),
        ("non-finite", f"{run['nonfinite']:,} steps"),
    ]
    if recent:
        rows.append(("of late", f"{share(recent['clip_fraction'])} of {recent['steps']} clipped"))
    for label, text in rows:
        print(f"{label:<12} {text}")
    for version in history[:10]:
        values = ", ".join(
            f"{k} {number(version['from'].get(k))} → {number(v)}" for k, v in version["to"].items()
        )
        origin = version["rolled_back_to"]
        words = (
            version["stream"],
            version["match"],
            f"back to version {origin}:" if origin is not None else None,
            values,
            "stop" if version["stop"] else None,
            f"for {version['ttl_steps']:,} steps" if version["ttl_steps"] is not None else None,
        )
        values = " ".join(filter(None, words))
        step = f" at step {version['step']:,}" if version["step"] is not None else ""
        print(
            f"version {version['version']:<4} {values}  {version['status']}{step}, "
            f"by {safe(version['author'])} {ago(version['at'])}  {safe(version['reason'])}".rstrip()
        )
    for rule in told.get("advice", []):
        print_advice(rule, many=len(told["advice"]) > 1)


def _advice(client: Client, run: str, rule: dict[str, Any]) -> dict[str, Any]:
    whose = {name: rule[name] for name in ("stream", "match")}
    asked = {name: value for name, value in whose.items() if value is not None}
    return {**whose, **client.ask("GET", f"runs/{run}/advice", query=asked).body}


def _rule(rule: dict[str, Any]) -> str:
    """One strategy in a line: for what, its threshold in force, and what it may be set to."""
    name = rule["threshold_name"]
    limit = rule["limits"].get(name)
    where = " ".join(safe(part) for part in (rule["stream"], rule["match"]) if part)
    words = [f"{where}:" if where else "", safe(rule["strategy"])]
    if name is None:
        words.append("without a threshold")
    else:
        words.append(f"{name} = {number(rule['applied'].get(name))}")
        words.append(f"({limit['min']:g} to {limit['max']:g} may be set)" if limit else "")
    return " ".join(filter(None, words))


def print_audit(entries: list[dict[str, Any]]) -> None:
    rows = [("ENTRY", "WHEN", "WHO", "WHAT", "RUN", "DETAILS")]
    for entry in entries:
        details = ", ".join(
            f"{name} {value if isinstance(value, str) else json.dumps(value)}"
            for name, value in entry["details"].items()
            if value not in (None, "")
        )
        rows.append(
            (
                str(entry["id"]),
                ago(entry["at"]),
                safe(entry["actor"]),
                entry["action"],
                entry["run"] or "–",
                safe(details),
            )
        )
    print_table(rows)


def set_threshold(arguments: argparse.Namespace) -> None:
    judged = arguments.revert_if_nonfinite or arguments.revert_band is not None
    if judged != (arguments.within is not None):
        raise Usage(
            "--within W goes with --revert-if-nonfinite or --revert-band LOW:HIGH, and they with it"
        )
    if bool(arguments.values) == (arguments.roll_back_to is not None):
        raise Usage("name values to set, such as max_norm=0.5, or else --roll-back-to V")
    trial = {
        "within": arguments.within,
        "nonfinite": arguments.revert_if_nonfinite,
        "clip_fraction": arguments.revert_band,
    }
    body = {
        **dict(arguments.values),
        "match": arguments.match,
        "stream": arguments.stream,
        "roll_back_to": arguments.roll_back_to,
        "not_before_step": arguments.not_before,
        "ttl_steps": arguments.ttl,
        "revert_if": trial if judged else None,
    }
    _change(arguments, body)


def stop(arguments: argparse.Namespace) -> None:
    _change(arguments, {"stop": True})


def _change(arguments: argparse.Namespace, body: dict[str, Any]) -> None:
    """Puts the next version of a run's control document, and says what became of it."""
    client = Client.here()
    run = client.find(arguments.run)
    path = f"runs/{run['id']}/control"
    etag = client.ask("GET", path).etag or ""
    body = {**body, "reason": arguments.reason}
    document = client.ask("PUT", path, body=body, headers={"If-Match": etag}).body
    version = document["version"]
    if arguments.wait:
        entry = _wait_for(client, run["id"], version, arguments.timeout)
    else:
        entry = {"version": version, "status": document["status"], "step": None}
    if arguments.json:
        print_json(entry)
    elif applied := _applied(entry):
        print(f"version {version} applied at step {applied['step']}")
    else:
        print(f"version {version} {entry['status']}; --wait waits until the trainer applied it")


def _applied(entry: dict[str, Any]) -> dict[str, Any] | None:
    """How a version took hold, also of one that was in force for a time only."""
    events = entry.get("events", ())
    return next((event for event in events if event["status"] == "applied"), None)


def _wait_for(client: Client, run: str, version: int, timeout: float) -> dict[str, Any]:
    """The history entry of a version once its fate is known. Raises Failed if that is not good."""
    deadline = time.monotonic() + timeout
    while True:
        history = client.ask("GET", f"runs/{run}/control/history").body["versions"]
        entry: dict[str, Any] = next(e for e in history if e["version"] == version)
        if _applied(entry):
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
        if arguments.stream is not None:
            query["stream"] = arguments.stream
        columns = client.ask("GET", f"runs/{run['id']}/series", query=query).body["columns"]
        rows: dict[int, dict[str, float | None]] = {}
        for name in names:
            for step, value in zip(columns[name]["step"], columns[name]["mean"], strict=True):
                rows.setdefault(step, {})[name] = value
        for step in sorted(rows):
            if arguments.json:
                print(json.dumps({"step": step, **rows[step]}), flush=True)
            else:
                cells = (f"{number(rows[step].get(name)):>{width}}" for name in names)
                print(f"{step:>10}  " + "  ".join(cells), flush=True)
        if rows:
            first = max(rows) + 1
        state = client.ask("GET", f"runs/{run['id']}").body
        if state["status"] in ("finished", "failed", "stopped") and not rows:
            if not arguments.json:
                print(f"the run has {state['status']}")
            return
        time.sleep(WAIT)


def bench_load(arguments: argparse.Namespace) -> None:
    from .load import Load, Plan

    plan = Plan(
        runs=arguments.runs,
        layers=arguments.layers,
        rate=arguments.rate,
        duration=arguments.duration,
        viewers=arguments.viewers,
    )
    load = Load(Client.here(arguments.server, arguments.token), plan, _progress)
    print(
        f"{plan.runs:,} runs of {plan.layers:,} layers at {plan.rate:g} steps/s, "
        f"{plan.viewers:,} viewers: {plan.offered:,.0f} points/s to {load.client.server} …",
        file=sys.stderr,
        flush=True,
    )
    figures = load.run()
    deleted = 0 if arguments.keep else load.delete()
    if arguments.json:
        told = {
            **{name: getattr(arguments, name) for name in ("runs", "layers", "rate", "viewers")},
            "offered_per_second": plan.offered,
            **figures.as_json(),
            "unacknowledged": load.unacknowledged,
            "deleted": deleted,
        }
        print_json(told)
    else:
        _print_load(plan, figures, load, deleted)
    if load.missing:
        raise Failed(f"{load.missing:,} of {plan.runs:,} runs never got through")
    if load.unacknowledged:
        raise Failed(f"{load.unacknowledged:,} frames were never acknowledged")
    if figures.errors:
        raise Failed(f"{sum(figures.errors.values()):,} errors, listed above")


def _progress(figures: Figures) -> None:
    """The last seconds in a line."""
    parts = [
        f"{figures.connected:>5,} connected",
        f"{figures.points_per_second:>12,.0f} points/s",
        f"ack {_times(figures.ack_ms)}",
    ]
    if figures.view_ms is not None:
        parts.append(f"view {_times(figures.view_ms)}")
    if figures.server_memory is not None:
        parts.append(_machine(figures))
    parts.append(f"{sum(figures.errors.values()):,} errors")
    print("  ".join(parts), file=sys.stderr, flush=True)


def _print_load(plan: Plan, figures: Figures, load: Load, deleted: int) -> None:
    stored = figures.points_per_second / plan.offered
    rows = [
        (
            "stored",
            f"{figures.points_per_second:,.0f} points/s, {share(stored)} of what was to come",
        ),
        ("frames", f"{figures.frames_per_second:,.1f} per second"),
        ("acknowledged", f"after {_times(figures.ack_ms)}"),
    ]
    if plan.viewers:
        rows.append(("seen", f"after {_times(figures.view_ms)}, step to viewer"))
        rows.append(("frames seen", f"{figures.views_per_second:,.1f} per second"))
    if figures.server_memory is not None:
        rows.append(("server", _machine(figures)))
    limit = "; it was the limit, the server may bear more" if figures.generator_cpu > 0.9 else ""
    rows.append(("this program", f"{share(figures.generator_cpu)} of a core{limit}"))
    rows.append(("reconnects", f"{figures.reconnects:,}"))
    rows += [
        ("error", f"{count:,} × {safe(cause)}") for cause, count in sorted(figures.errors.items())
    ]
    rows.append(("runs", f"{deleted:,} deleted" if deleted else "kept, in the project `load`"))
    for label, text in rows:
        print(f"{label:<14} {text}")


def _times(spread: Spread | None) -> str:
    return "–" if spread is None else f"p50 {spread.p50:,.0f} ms, p99 {spread.p99:,.0f} ms"


def _machine(figures: Figures) -> str:
    return (
        f"{(figures.server_memory or 0) / 2**20:,.0f} MB, {figures.server_fds} files, "
        f"{figures.server_threads} threads, {share(figures.server_cpu)} of a core"
    )
