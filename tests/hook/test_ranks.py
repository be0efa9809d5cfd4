"""Ranks of a distributed job: real processes that train one model, or each its own.

``RANKS_CHANGES=1000`` makes of the 60 changes of the normal suite a thousand.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import gradhelm
from gradhelm import ranks, wire
from gradhelm.control import Steering

from .fake_server import FakeServer, free_port
from .models import small

SCRIPT = Path(__file__).with_name("ranks_job.py")
LIMIT = 120.0
"""Seconds after which a rank hangs: on a busy machine most of them go into starting."""
LONG = LIMIT + int(os.environ.get("RANKS_CHANGES", "60"))

TOGETHER = (
    "dead hook on 0",
    "dead hook on 1",
    "dead hook on 0, a change on its way",
    "dead hook on 1, a change on its way",
    "dead_as_it_acts",
    "tampered",
    "late",
    "AutoClip",
    "ZClip",
    "ZeRO with SGD",
    "ZeRO with AdamW",
    "two_streams",
    "fully_sharded",
    "closed_early",
    "slow_steps",
    "forked",
)
"""Scenarios that one job goes through in turn, each with a run of its own."""


class Job:
    """Processes of one job, with what each said."""

    def __init__(self, folder: Path, size: int, scenario: str, others: dict[str, str]) -> None:
        self.folder = folder
        self.scenario = scenario
        port = str(free_port())
        path = os.pathsep.join([str(Path(gradhelm.__file__).parents[1]), *sys.path[:1]])
        self.ranks = []
        for rank in range(size):
            command = [sys.executable, str(SCRIPT), scenario, str(rank), str(size), port]
            with (folder / f"stderr {rank}").open("w") as stderr:
                self.ranks.append(
                    subprocess.Popen(
                        [*command, str(folder / f"{rank}.json")],
                        env={**os.environ, "PYTHONPATH": path, **(others if rank else {})},
                        stderr=stderr,
                    )
                )

    def wait(self, limit: float = LIMIT) -> list[int]:
        """How the ranks ended; fails when one of them does not, and says where each stands."""
        until = time.monotonic() + limit
        try:
            return [rank.wait(max(0.1, until - time.monotonic())) for rank in self.ranks]
        except subprocess.TimeoutExpired:
            for rank in self.ranks:
                rank.send_signal(signal.SIGUSR1)
            time.sleep(1.0)
            said = [self.stderr(number) for number in range(len(self.ranks))]
            pytest.fail(f"{self.scenario}: hangs after {limit:.0f} s\n" + "\n".join(said))

    def stderr(self, rank: int) -> str:
        return (self.folder / f"stderr {rank}").read_text()

    def found(self, scenario: str | None = None) -> list[dict[str, Any]]:
        """What all ranks found."""
        said = [
            json.loads((self.folder / f"{rank}.json").read_text())
            for rank in range(len(self.ranks))
        ]
        return [one[scenario or self.scenario] for one in said]


@contextmanager
def job(
    folder: Path, size: int, scenario: str, others: dict[str, str] | None = None
) -> Iterator[Job]:
    """``others``: what the environment of the ranks beyond the first has besides."""
    made = Job(folder, size, scenario, others or {})
    try:
        yield made
    finally:
        for rank in made.ranks:
            rank.kill()  # a stopped one too
            rank.wait()


def ended(folder: Path, size: int, scenario: str, **more: Any) -> Job:
    """A job whose ranks all end well."""
    with job(folder, size, scenario, **more) as made:
        codes = made.wait(LONG)
        assert codes == [0] * size, "\n".join(made.stderr(rank) for rank in range(size))
        return made


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("together")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADHELM_HOME", str(folder))
        return ended(folder, 2, " + ".join(TOGETHER))


def same(found: list[dict[str, Any]], *names: str) -> None:
    for name in names:
        assert len({json.dumps(one[name]) for one in found}) == 1, f"{name} differs"


# -- changes --------------------------------------------------------------------------------------


@pytest.mark.timeout(2 * LONG)
@pytest.mark.parametrize("size", [2, 4])
def test_changes_take_hold_at_the_same_step_on_all_ranks_whoever_stalls(tmp_path, size):
    found = ended(tmp_path, size, "changes").found()
    same(found, "log", "weights", "threshold")
    wanted = int(os.environ.get("RANKS_CHANGES", "60"))
    versions = [version for _, version, _ in found[0]["log"]]
    assert versions == sorted(versions)
    # Of two that came at once, the older may have been passed over.
    assert 0.8 * wanted <= len(set(versions) - {0}) <= wanted
    assert versions[-1] == wanted
    assert len({threshold for *_, threshold in found[0]["log"]}) > 0.7 * wanted
    assert all(one["why_not"] is None and "ranks" not in one["warned"] for one in found)
    # Nobody sends the answers of the other ranks: they must not pile up.
    assert all(one["answers"] <= 1 for one in found[1:])


def test_a_change_comes_by_the_server_and_the_answer_names_the_step_of_all(
    server: FakeServer, tmp_path, monkeypatch
):
    monkeypatch.setenv("JOB_SERVER", server.url)
    change = wire.Change(1, (wire.Rule({"max_norm": 2.5}),))
    server.on_hello = lambda server, hello: server.say(change)
    found = ended(tmp_path, 2, "served").found()
    same(found, "log", "weights")
    assert server.connections == 1
    assert server.hello.limits.why_not is None
    assert server.of(wire.Delivered)
    (applied,) = server.of(wire.Applied)
    first = next(step for step, version, _ in found[1]["log"] if version == 1)
    assert applied.step == first - 1  # the log has the number of the next one
    assert next(row for row in found[1]["log"] if row[1] == 1)[2] == 2.5
    of_version = {step: version for step, version, _ in server.rows()}
    assert of_version[applied.step - 1] == 0
    assert of_version[applied.step] == 1


def test_several_optimizers_of_a_run_switch_together_on_all_ranks(together: Job):
    found = together.found("two_streams")
    same(found, "log", "weights")
    assert found[0]["log"][0] == [1.0, 1.0]
    assert found[0]["log"][-1] == [2.0, 3.0]


def test_sharded_parameters_are_steered_at_the_same_step_too(together: Job):
    found = together.found("fully_sharded")
    same(found, "log", "weights")
    assert found[0]["why_not"] is None
    assert found[0]["log"][0] == 1.0
    assert found[0]["log"][-1] == 0.25


def test_slow_steps_on_any_rank_make_rounds_frequent(together: Job):
    found = together.found("slow_steps")
    same(found, "periods")
    assert 1 in found[0]["periods"][:31]
    assert found[0]["periods"][-1] == ranks.PERIOD


def test_ranks_wait_for_one_that_is_late_and_act_at_the_same_step(together: Job):
    found = together.found("late")
    same(found, "log")
    assert [one["version"] for one in found] == [2, 2]
    # Longer than what ends in a look for ranks that are gone, and not for ever.
    assert all(2 * ranks.SLICE < one["waited"] < ranks.HELD_UP[0] for one in found)
    assert all(one["why_not"] is None for one in found)


@pytest.mark.parametrize("kind", ["AutoClip", "ZClip"])
def test_what_adaptive_strategies_learn_is_the_same_bits_on_all_ranks(together: Job, kind):
    found = together.found(kind)
    same(found, "log", "weights", "threshold")
    assert len(set(found[0]["log"])) == len(found[0]["log"])  # it learns at every step


@pytest.mark.parametrize("kind", ["SGD", "AdamW"])
def test_with_zero_the_weights_are_those_of_one_process(together: Job, kind):
    found = together.found(f"ZeRO with {kind}")
    same(found, "weights", "single")
    assert found[0]["weights"] == found[0]["single"]
    assert found[0]["clipped"] > 10


# -- what goes wrong ------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["", ", a change on its way"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_dead_exchange_on_one_rank_ends_control_and_nothing_else(together: Job, rank, way):
    found = together.found(f"dead hook on {rank}{way}")
    same(found, "weights", "step")
    assert [(one["version"], one["threshold"]) for one in found] == [(0, 1.0)] * 2
    assert all("lost contact" in one["why_not"] and "ranks" in one["warned"] for one in found)
    assert "the exchange is dead" in found[rank]["why_not"]
    assert found[0]["answers"] == ["Rejected"]
    assert all(one["seconds"] < 60 for one in found)


def test_an_exchange_that_dies_as_all_act_leaves_them_with_the_same_threshold(together: Job):
    found = together.found("dead_as_it_acts")
    same(found, "log", "weights")
    assert [(one["version"], one["threshold"]) for one in found] == [(1, 5.0)] * 2
    assert all("lost contact" in one["why_not"] for one in found)


def test_of_four_ranks_with_a_dead_exchange_on_one_nobody_applies(tmp_path):
    scenario = "dead hook on 1, a change on its way"
    found = ended(tmp_path, 4, scenario).found()
    same(found, "weights", "step")
    assert [(one["version"], one["threshold"]) for one in found] == [(0, 1.0)] * 4


def test_a_rank_that_drops_out_as_the_others_act_is_an_error(tmp_path):
    with job(tmp_path, 2, "lost_after_acting") as made:
        assert made.wait() == [1, 1]
        assert any(
            "RanksError: the ranks lost contact while a change was on its way" in made.stderr(rank)
            for rank in range(2)
        )


def test_values_that_differ_between_ranks_are_an_error_that_names_them(together: Job):
    for one in together.found("tampered"):
        assert "not under the same control" in one["error"]
        assert "{'max_norm': 1.0} on rank 0" in one["error"]
        assert "{'max_norm': 3.0} on rank 1" in one["error"]


def test_a_killed_rank_leaves_the_others_with_their_own_error(tmp_path):
    with job(tmp_path, 2, "killed") as made:
        assert made.wait() == [1, -signal.SIGKILL]
        assert "RuntimeError" in made.stderr(0)
        assert "gradhelm.errors" not in made.stderr(0)  # what DDP says is not masked


@pytest.mark.parametrize("rank", [0, 1])  # rank 0 has the store
def test_a_frozen_rank_holds_up_neither_steps_nor_the_end_of_others(tmp_path, rank):
    with job(tmp_path, 2, f"frozen {rank}") as made:
        other = 1 - rank
        assert made.ranks[other].wait(LIMIT) == 0, made.stderr(other)
        told = json.loads((tmp_path / f"{other}.json").read_text())[f"frozen {rank}"]
        assert "do not step together" in told["why_not"]


def test_attach_on_rank_0_alone_is_an_error_not_a_hang(tmp_path):
    with job(tmp_path, 2, "alone") as made:
        assert made.wait() == [1, 1]
        assert "RanksError: attach was called on rank 0 only" in made.stderr(0)
        assert "rank 1 of 2 did not call it" in made.stderr(0)


def test_attach_on_rank_0_alone_is_told_where_each_rank_trains_its_own(tmp_path):
    made = ended(tmp_path, 2, "alone_apart + alone_and_short")
    told, _ = made.found("alone_apart")
    assert "attach was called on rank 0 only" in told["why_not"]
    assert made.stderr(0).count("attach was called on rank 0 only") == 2  # and the short run


def test_control_off_on_one_rank_makes_the_job_read_only(tmp_path):
    found = ended(tmp_path, 2, "control_off", others={"GRADHELM_CONTROL": "off"}).found()
    same(found, "weights")
    assert [(one["version"], one["threshold"]) for one in found] == [(0, 1.0)] * 2
    (why,) = found[0]["answers"]
    assert why == "GRADHELM_CONTROL=off where the trainer runs (rank 1 of 2)"


@pytest.mark.parametrize(
    ("scenario", "text"),
    [
        ("other_clip", "another clip on rank 1 than on rank 0: GlobalNorm max_norm=2.0"),
        ("other_control", "another control on rank 1 than on rank 0: max_norm 0.01..60.0"),
    ],
)
def test_another_clip_or_control_on_another_rank_is_an_error(tmp_path, scenario, text):
    with job(tmp_path, 2, scenario) as made:
        assert made.wait() == [1, 1]
        assert any(text in made.stderr(rank) for rank in range(2))


def test_a_run_closed_on_one_rank_ends_control_on_the_others(together: Job):
    found = together.found("closed_early")
    same(found, "weights")
    assert [one["version"] for one in found] == [0, 0]
    assert all(one["seconds"] < 60 for one in found)


def test_a_forked_child_has_no_part_in_it_and_ends_by_itself(together: Job):
    found = together.found("forked")
    same(found, "weights", "threshold")
    assert [one["child"] for one in found] == [0, 0]
    assert found[0]["threshold"] == 5.0


# -- in one process -------------------------------------------------------------------------------


def test_what_is_agreed_on_is_acted_upon_and_nothing_before():
    steering = Steering([], wire.Limits())
    change = wire.Change(3, ())
    asked: list[wire.Change | None] = []
    steering.agree = lambda waiting: asked.append(waiting)
    steering.receive(change)
    steering.take()
    assert asked == [change]
    assert steering.waiting


def test_ranks_ask_at_the_same_steps_whenever_they_came():
    asks = [ranks._next_ask(0)]
    while asks[-1] < 100_000:
        asks.append(ranks._next_ask(asks[-1]))
    assert asks[:4] == [5, 10, 15, 22]
    for tick in range(3000):
        assert ranks._next_ask(tick) == next(ask for ask in asks if ask > tick)


@pytest.fixture
def one_rank(tmp_path) -> Iterator[None]:
    torch.distributed.init_process_group(
        "gloo", init_method=(tmp_path / "meet").as_uri(), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_zero_is_attached_whole_or_not_at_all(one_rank):
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = small()
    zero = ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=0.1)
    with pytest.raises(ValueError, match="attach the ZeroRedundancyOptimizer itself"):
        gradhelm.attach(model, zero.optim, max_norm=1.0, mode="disabled")
    overlapping = ZeroRedundancyOptimizer(
        model.parameters(), torch.optim.SGD, lr=0.1, overlap_with_ddp=True
    )
    with pytest.raises(ValueError, match="overlap_with_ddp"):
        gradhelm.attach(model, overlapping, max_norm=1.0, mode="disabled")
    gradhelm.attach(model, zero, max_norm=1.0, mode="disabled")
