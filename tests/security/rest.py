"""REST held to its own description: schemathesis asks what the description allows and what it does not.

``python -m security.rest --seed 1 2 3 --examples 100`` runs it alone, from the folder ``tests``;
``test_rest.py`` runs a short version. What it cannot know by itself stands in ``rest_hooks.py``.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from support import Running, running
from trainer import FakeTrainer, trainer

from gradhelm import wire

HOOKS = Path(__file__).with_name("rest_hooks.py")
CONFIG = """
hooks = {hooks!r}

[dictionaries]
runs = {{ values = {runs} }}
tokens = {{ values = {tokens} }}
columns = {{ values = ["global_norm", "norm/a.weight,global_norm", "clipped"] }}
streams = {{ values = ["gen", "disc"] }}
thresholds = {{ values = ["1", "0.5,2", "1e-3"] }}

# Mostly what there is, so that more is tried than the answer to what there is not.
[parameters]
"path.run" = {{ dictionary = "runs", probability = 0.8 }}
"path.token" = {{ dictionary = "tokens", probability = 0.5 }}
"query.columns" = {{ dictionary = "columns", probability = 0.8 }}
"query.stream" = {{ dictionary = "streams", probability = 0.8 }}
"query.max_norm" = {{ dictionary = "thresholds", probability = 0.7 }}

# Narrower than what schemathesis takes for good by itself, which has every 5xx in it. 302, 303: who
# signs in is sent on, and nobody else, as each answer is one that is described. 431: an address has
# its own limit.
[checks]
missing_required_header.expected-statuses = [428]
negative_data_rejection.expected-statuses = [400, 401, 404, 415, 422, 428, 431]
positive_data_acceptance.expected-statuses = ["2xx", 302, 303, 304, 401, 404, 409, 431]
"""


class Report(NamedTuple):
    """How many requests were made, how many things are wrong, and everything that was said."""

    requests: int
    failures: int
    text: str


def siege(seed: int, examples: int) -> Report:
    """One run of schemathesis, with all its checks, on a server of its own. ``examples``: at most so
    many for each operation, besides those that cover the description."""
    with (
        tempfile.TemporaryDirectory() as home,
        running(Path(home)) as server,
        contextlib.ExitStack() as trainers,
    ):
        runs = []
        for number in range(12):
            limits = wire.Limits(lr=True, stop=number % 2 == 0)
            one = trainer(
                server.ws,
                server.token,
                name=f"run {number}",
                limits=limits,
                streams=("gen", "disc"),
            )
            runs.append(trainers.enter_context(one))
            fill(runs[-1])
        return _siege(server, [one.run for one in runs], seed, examples)


def fill(one: FakeTrainer) -> None:
    """Some steps of both streams."""
    one.send(0, one.rows(np.geomspace(0.1, 10, 100).tolist()))
    one.say(wire.Columns(1, 0, (wire.Column("disc/global_norm", "scalar"),), "disc"))
    one.seq += 1
    steps = np.arange(50, dtype=np.uint64)
    values = np.ones((50, 1), np.float32)
    one.say(wire.pack_frame(one.seq, 1, 0, steps, 1e6 + steps.astype(float), values))
    one.hear(wire.Ack)


def _siege(server: Running, runs: list[str], seed: int, examples: int) -> Report:
    for number in range(5):
        server.rest.post("/api/v1/tokens", json={"role": "viewer", "name": f"token {number}"})
    tokens = server.get("tokens")["tokens"]
    (own,) = [token["id"] for token in tokens if token["name"] == "local"]
    others = [token["id"] for token in tokens if token["name"] != "local"]
    config = server.home / "schemathesis.toml"
    config.write_text(CONFIG.format(hooks=str(HOOKS), runs=runs, tokens=others))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli"),
            *("--config-file", str(config), "--no-color"),
            *("run", f"{server.url}/api/v1/openapi.json", "--checks", "all"),
            *("--header", f"Authorization: Bearer {server.token}"),
            *("--seed", str(seed), "--max-examples", str(examples)),
            *("--generation-database", "none"),
        ],
        env={
            **os.environ,
            "GRADHELM_FUZZ_SERVER": server.url,
            "GRADHELM_FUZZ_TOKEN": server.token,
            "GRADHELM_FUZZ_OWN": own,
        },
        capture_output=True,
        text=True,
        cwd=server.home,
    )
    text = done.stdout + done.stderr
    assert server.get("server")["user"]["role"] == "admin"  # or all of it was answered by 401
    made = re.search(r"(\d+) generated", text)
    failed = re.search(r"= (\d+) failures?", text)
    failures = int(failed[1]) if failed else 0
    if done.returncode and not failures:
        failures = 1
    return Report(int(made[1]) if made else 0, failures, text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--examples", type=int, default=100)
    asked = parser.parse_args()
    failures = 0
    for seed in asked.seed:
        report = siege(seed, asked.examples)
        failures += report.failures
        if report.failures:
            print(report.text)
        print(f"REST, seed {seed}: {report.requests} requests, {report.failures} failures")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
