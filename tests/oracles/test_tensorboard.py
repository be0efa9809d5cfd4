"""What TensorBoard itself reads back from ``gradhelm export --format tensorboard``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from support import Program, Running
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter
from trainer import SCALARS, trainer

from gradhelm import wire


def test_tensorboard_reads_what_was_measured(
    server: Running, here: Program, tmp_path: Path
) -> None:
    norms = np.random.default_rng(2).lognormal(size=300).astype(np.float32)
    norms[[3, 4]] = np.nan, np.inf
    with trainer(server.ws, server.token, layers=["a.weight", "b/c d"]) as fake:
        rows = fake.rows(norms)
        rows.view(np.uint32)[::3, -1] = wire.MISSING_BITS
        fake.send(5, rows)
    place = tmp_path / "events"
    done = here.run("export", fake.run, "--format", "tensorboard", "-o", str(place))
    assert done.returncode == 0, done.stderr
    assert "300 steps" in done.stdout
    read = EventAccumulator(str(place), size_guidance={"scalars": 0}).Reload()
    names = [*SCALARS, "norm/a.weight", "norm/b/c d"]
    assert sorted(read.Tags()["scalars"]) == sorted(names)
    for name, column in zip(names, rows.T, strict=True):
        there = ~wire.missing(np.ascontiguousarray(column))
        found = read.Scalars(name)
        assert [one.step for one in found] == (np.flatnonzero(there) + 5).tolist()
        values = np.float32([one.value for one in found])
        assert np.array_equal(values, column[there], equal_nan=True)
    assert read.Scalars("global_norm")[2].wall_time == 1_000_007.0
    done = here.run("export", fake.run, "--format", "tensorboard", "-o", str(place))
    assert (done.returncode, "already" in done.stderr) == (1, True)


def test_what_another_program_logged_becomes_a_run(
    server: Running, here: Program, tmp_path: Path
) -> None:
    norms = np.random.default_rng(3).lognormal(size=200).astype(np.float32)
    with SummaryWriter(str(tmp_path / "events")) as writer:
        for step, norm in enumerate(norms):
            writer.add_scalar("train/grad_norm", norm, 2 * step, walltime=1e9 + step)
            if step % 5 == 0:
                writer.add_scalar("train/loss", step / 8, 2 * step, new_style=True)
            writer.add_scalar("grad/a.weight", norm / 2, 2 * step)
        writer.add_histogram("weights", norms, 0)
    told = here.json("import", str(tmp_path / "events"), "--norms", "grad/*", "--max-norm", "0.5")
    columns = ["global_norm", "train/loss", "norm/a.weight", "clipped"]
    found = server.get(f"runs/{told['run']}/series", columns=",".join(columns))["columns"]
    assert found["global_norm"]["step"] == list(range(0, 400, 2))
    assert np.array_equal(np.float32(found["global_norm"]["mean"]), norms)
    assert found["train/loss"]["step"] == list(range(0, 400, 10))
    assert found["train/loss"]["mean"] == [step / 8 for step in range(0, 200, 5)]
    assert np.array_equal(np.float32(found["norm/a.weight"]["mean"]), norms / 2)
    assert np.array_equal(np.float32(found["clipped"]["mean"]), norms > 0.5)
    done = here.run("import", str(tmp_path))
    assert (done.returncode, "has no scalars of TensorBoard" in done.stderr) == (1, True)
