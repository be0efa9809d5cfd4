"""What the tests of the frameworks share: bits to compare, and a person who moves a threshold."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from support import Running, eventually
from torch import nn

CODED, SET = 0.5, 0.05


def bits(model: nn.Module) -> list[bytes]:
    """The bits of all weights."""
    return [p.detach().numpy().tobytes() for p in model.parameters()]


def runs_named(server: Running, name: str) -> list[dict]:
    return [run for run in server.get("runs", limit=100)["runs"] if run["name"] == name]


def series(server: Running, run: str, columns: str) -> dict:
    return server.get(f"runs/{run}/series", columns=columns, points=20_000)["columns"]


class Remote:
    """Somebody at another machine, who sets ``SET`` when the run called ``name`` has 20 steps.

    ``applied`` is true once the trainer has said at which step it did so; a test's training goes on
    until then, and a little longer.
    """

    def __init__(self, server: Running, name: str) -> None:
        self.server = server
        self.name = name
        self.step: int | None = None
        self.run = ""
        self.problem: BaseException | None = None

    def done(self, step: int) -> bool:
        """Whether training may end after ``step`` steps."""
        if self.problem is not None:
            raise self.problem
        return self.step is not None and step > self.step + 20

    def work(self) -> None:
        try:
            found = eventually(self._far_enough, 60, "a run with 20 steps")
            assert isinstance(found, dict)
            self.run = found["id"]
            answer = self.server.put_control(self.run, 0, max_norm=SET, reason="a test")
            assert answer.status_code == 202, answer.text
            self.step = int(eventually(self._applied, 60, "the change applied"))  # type: ignore[call-overload]
        except BaseException as problem:
            self.problem = problem

    def _far_enough(self) -> dict | None:
        found = runs_named(self.server, self.name)
        return found[0] if found and found[0]["steps"] >= 20 else None

    def _applied(self) -> int | None:
        control = self.server.get(f"runs/{self.run}/control")
        return control["applied"]["step"] if control["status"] == "applied" else None

    def check(self) -> None:
        """The threshold changed at the step that was reported, and gradients obey it from there."""
        assert self.problem is None, self.problem
        assert self.step is not None
        assert self.step >= 20
        found = series(self.server, self.run, "threshold,global_norm,clip_coef,post_norm")
        steps = np.array(found["global_norm"]["step"])
        np.testing.assert_array_equal(steps, np.arange(len(steps)))
        assert steps[-1] >= self.step + 20
        wanted = np.where(steps < self.step, CODED, SET).astype(np.float32)
        np.testing.assert_array_equal(np.array(found["threshold"]["mean"], np.float32), wanted)
        norms, after = (np.array(found[name]["mean"]) for name in ("global_norm", "post_norm"))
        assert (norms[self.step :] > SET).any()
        np.testing.assert_allclose(
            found["clip_coef"]["mean"], np.minimum(1, wanted / (norms + 1e-6)), rtol=1e-6
        )
        assert (after[self.step :] <= SET * (1 + 1e-6)).all()


@contextmanager
def remote(server: Running, name: str) -> Iterator[Remote]:
    person = Remote(server, name)
    thread = threading.Thread(target=person.work)
    thread.start()
    try:
        yield person
    finally:
        thread.join()
