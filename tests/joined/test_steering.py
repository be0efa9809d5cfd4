"""Changes with conditions, from the command line or REST through a server to a real run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from support import Running, eventually

import gradhelm

pytestmark = pytest.mark.joined


class Job:
    """A run whose gradients have the norm 1, and its steps."""

    def __init__(self, server: Running, **values: object) -> None:
        self.model = torch.nn.Linear(4, 1, bias=False)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.server = server
        self.run = gradhelm.attach(
            self.model,
            self.optimizer,
            server=server.url,
            token=server.token,
            **{"max_norm": 10.0, **values},
        )
        path = f"/api/v1/runs/{self.run.id}"
        eventually(lambda: server.rest.get(path).status_code == 200)

    def __enter__(self) -> Job:
        return self

    def __exit__(self, *_: object) -> None:
        self.run.close()

    def step(self, norm: float = 1.0) -> None:
        self.model.weight.grad = torch.tensor([[norm, 0.0, 0.0, 0.0]])
        self.optimizer.step()

    def until(self, holds: Callable[[], object], norm: float = 1.0, **logged: float) -> None:
        """Steps on until that is so."""

        def stepped() -> object:
            self.step(norm)
            self.run.log(**logged)
            return holds()

        eventually(stepped, within=30)

    def delivered(self, version: int) -> None:
        eventually(lambda: self.fate(version)["status"] == "delivered")

    def fate(self, version: int) -> dict:
        history = self.server.get(f"runs/{self.run.id}/control/history")["versions"]
        return next(entry for entry in history if entry["version"] == version)

    def columns(self, *names: str) -> dict[int, tuple[float, ...]]:
        """Step -> the values of these columns, once all steps are stored."""
        last = self.run.step - 1
        path = f"runs/{self.run.id}"
        eventually(lambda: self.server.get(path)["last_step"] == last)
        asked = self.server.get(f"{path}/series", columns=",".join(names), points=20_000)
        assert asked["stride"] == 1
        series = [asked["columns"][name] for name in names]
        rows = zip(*(one["mean"] for one in series), strict=True)
        return dict(zip(series[0]["step"], rows, strict=True))


def test_a_change_for_a_time_is_in_force_for_exactly_these_steps(server, here) -> None:
    with Job(server) as job:
        done = here.run("set", job.run.id, "max_norm=0.5", "--ttl", "20", "--not-before", "30")
        assert done.returncode == 0, done.stderr
        job.delivered(1)
        for _ in range(70):
            job.step()
        eventually(lambda: job.fate(1)["status"] == "reverted")
        assert job.run.control_version == 0
        threshold = {step: value for step, (value,) in job.columns("threshold").items()}
        assert threshold == {step: 0.5 if 30 <= step < 50 else 10.0 for step in range(70)}
        fate = job.fate(1)
        assert (fate["step"], fate["why"]) == (50, "its time was over at step 50")
        assert "for 20 steps" in here.run("show", job.run.id).stdout


@pytest.mark.parametrize(("again_at", "until"), [(40, 50), (60, 60)])
def test_a_restart_does_not_give_a_change_its_time_anew(server, again_at, until) -> None:
    with Job(server) as job:
        server.put_control(job.run.id, 0, max_norm=5.0)
        job.delivered(1)
        job.step()
        eventually(lambda: job.fate(1)["status"] == "applied")
        server.put_control(job.run.id, 1, max_norm=0.5, ttl_steps=20, not_before_step=30)
        job.delivered(2)
        while job.run.step < 40:
            job.step()
        eventually(lambda: job.fate(2)["status"] == "applied")
        state = job.run.state_dict()
        job.columns("threshold")
        life = {"run_id": job.run.id, "resume": True, "start_step": again_at}
        with Job(server, **life) as again:
            if again_at == 40:
                again.run.load_state_dict(state)
            eventually(lambda: again.run._steering.waiting)
            while again.run.step < 80:
                again.step()
            eventually(lambda: again.fate(2)["status"] == "reverted")
            assert again.fate(2)["step"] == until
            assert (again.run.control_version, again.run.threshold) == (1, 5.0)
            threshold = again.columns("threshold")
            for step in range(again_at, 80):
                assert threshold[step] == (0.5 if step < until else 5.0,)
            document = server.get(f"runs/{job.run.id}/control")
            assert document["applied"]["version"] == 1


def test_rolling_back_from_the_command_line(server, here) -> None:
    with Job(server) as job:
        for version, value in enumerate((5.0, 0.5), 1):
            assert here.run("set", job.run.id, f"max_norm={value}").returncode == 0
            job.until(lambda version=version: job.run.control_version == version)
        eventually(lambda: job.fate(2)["status"] == "applied")
        done = here.run("set", job.run.id, "--roll-back-to", "1", "--reason", "better")
        assert done.returncode == 0, done.stderr
        job.until(lambda: job.run.control_version == 3)
        assert job.run.threshold == 5.0
        assert "back to version 1: max_norm 0.5 → 5" in here.run("show", job.run.id).stdout


def test_a_stop_from_the_command_line_ends_a_loop_that_looks(server, here) -> None:
    with Job(server, control=gradhelm.Control(stop=True)) as job:
        assert here.run("stop", job.run.id, "--reason", "enough").returncode == 0
        steps = 0
        while not job.run.should_stop:
            assert steps < 100_000
            job.step()
            steps += 1
        assert job.run.control_version == 1
        eventually(lambda: job.fate(1)["status"] == "applied")
        assert "asked for" in here.run("show", job.run.id).stdout
        waited = here.run("stop", job.run.id, "--wait", "--timeout", "0.2")
        assert waited.returncode == 1
        assert "still" in waited.stderr


def test_a_run_that_allows_no_stop_says_how_it_could(server, here) -> None:
    with Job(server) as job:
        done = here.run("stop", job.run.id)
        assert done.returncode == 1
        assert "Control(stop=True)" in done.stderr


def test_learning_rates_are_scaled_from_the_command_line(server, here) -> None:
    with Job(server, control=gradhelm.Control(lr=True)) as job:
        job.step()
        assert here.run("set", job.run.id, "lr_factor=0.5").returncode == 0
        job.delivered(1)
        before = job.model.weight[0, 0].item()
        job.step()
        assert before - job.model.weight[0, 0].item() == pytest.approx(0.05, abs=1e-6)
        assert job.optimizer.param_groups[0]["lr"] == 0.1
        assert job.columns("lr") == {0: (pytest.approx(0.1),), 1: (pytest.approx(0.05),)}
        assert "times 0.5" in here.run("show", job.run.id).stdout


def test_a_trial_that_fails_is_taken_back_in_words(server, here) -> None:
    with Job(server) as job:
        judged = ("--within", "1000000", "--revert-if-nonfinite")
        assert here.run("set", job.run.id, "max_norm=0.5", *judged).returncode == 0
        job.until(lambda: job.run.control_version == 1, loss=1.0)
        job.step()
        job.run.log(loss=float("nan"))
        job.until(lambda: job.run.control_version == 0, loss=1.0)
        eventually(lambda: job.fate(1)["status"] == "reverted")
        assert job.fate(1)["why"].startswith("the loss was nan at step ")
        events = server.get(f"runs/{job.run.id}/events", kind="threshold")["events"]
        assert "was taken back: the loss was nan" in events[0]["text"]


def test_a_trial_by_the_share_of_clipped_steps(server, here) -> None:
    """Clips all of its steps where half is the most: taken back. Then a band that holds."""
    with Job(server) as job:
        judged = ("--within", "25", "--revert-band", "0:0.5")
        assert here.run("set", job.run.id, "max_norm=0.5", *judged).returncode == 0
        job.until(lambda: job.run.control_version == 1)
        job.until(lambda: job.run.control_version == 0)
        eventually(lambda: job.fate(1)["status"] == "reverted")
        assert "1 of the 25 steps" in job.fate(1)["why"]
        judged = ("--within", "25", "--revert-band", "0.5:1")
        assert here.run("set", job.run.id, "max_norm=0.5", *judged).returncode == 0
        job.until(lambda: job.run.control_version == 2)
        job.until(lambda: job.run._steering.trial is None)
        assert (job.run.control_version, job.run.threshold) == (2, 0.5)


def test_a_trial_never_waits_for_a_device(server) -> None:
    """Nothing on the training thread reads a logged loss: it may be on a device still."""
    with Job(server) as job:
        trial = {"within": 10**6, "nonfinite": True}
        server.put_control(job.run.id, 0, max_norm=0.5, revert_if=trial)
        job.until(lambda: job.run.control_version == 1)

        class OnDevice:
            """What looks like a CUDA scalar: reading it is for the sender alone."""

            readers: ClassVar[list[str]] = []
            device = torch.device("meta")

            def detach(self) -> OnDevice:
                return self

            def clone(self) -> OnDevice:
                return self

            def numel(self) -> int:
                return 1

            def is_complex(self) -> bool:
                return False

            def __float__(self) -> float:
                self.readers.append(threading.current_thread().name)
                return float("nan")

        job.run.log(loss=OnDevice())
        job.until(lambda: job.run.control_version == 0)
        assert set(OnDevice.readers) == {"gradhelm-link"}
