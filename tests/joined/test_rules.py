"""Several strategies in one run, over the real server: patterns, parameter groups, two optimizers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support import Running, eventually
from torch import nn

import gradhelm
from gradhelm.clip import GlobalNorm, Value

pytestmark = pytest.mark.joined


class Pair(nn.Module):
    """Two networks against each other, as in a GAN."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.gen = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
        self.disc = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 1))


def optimizers(pair: Pair) -> dict[str, torch.optim.Optimizer]:
    return {
        "gen": torch.optim.SGD(pair.gen.parameters(), lr=0.1),
        "disc": torch.optim.Adam(pair.disc.parameters(), lr=0.01),
    }


def play(pair: Pair, two: dict[str, torch.optim.Optimizer], turn: int, norms: dict) -> None:
    """One turn: five steps of the discriminator and one of the generator."""
    generator = torch.Generator().manual_seed(turn)
    for name, times in (("disc", 5), ("gen", 1)):
        for _ in range(times):
            two[name].zero_grad()
            real = torch.randn(8, 2, generator=generator)
            fake = pair.gen(torch.randn(8, 4, generator=generator))
            loss = pair.disc(real).mean() - pair.disc(fake).mean()
            (3 * loss if name == "disc" else -3 * loss).backward()
            norms[name].append(
                nn.utils.get_total_norm([p.grad for p in getattr(pair, name).parameters()]).item()
            )
            two[name].step()


def last_step(server: Running, run: gradhelm.Run) -> int | None:
    """The newest step that is stored; None before there is one."""
    answer = server.rest.get(f"/api/v1/runs/{run.id}")
    return answer.json()["last_step"] if answer.status_code == 200 else None


def test_two_optimizers_are_two_streams_of_one_run(server: Running) -> None:
    pair, norms = Pair(), {"gen": [], "disc": []}
    two = optimizers(pair)
    clip = {"gen": GlobalNorm(0.5), "disc": Value(0.1)}
    run = gradhelm.attach(pair, two, clip=clip, server=server.url, token=server.token)
    for turn in range(30):
        play(pair, two, turn, norms)
        run.log(loss=float(turn))
    assert {name: stream.step for name, stream in run.streams.items()} == {"gen": 30, "disc": 150}
    eventually(lambda: last_step(server, run) == 29)

    answer = server.put_control(run.id, 0, clip_value=0.02, stream="disc", reason="calm it")
    assert answer.status_code == 202, answer.text
    eventually(lambda: server.get(f"runs/{run.id}/control")["status"] == "delivered")
    for turn in range(30, 40):
        play(pair, two, turn, norms)
    run.close()
    assert run.streams["disc"].threshold == 0.02
    assert run.threshold == 0.5

    document = server.get(f"runs/{run.id}/control")
    assert (document["status"], document["step"], document["stream"]) == ("applied", 150, "disc")
    assert [(r["stream"], r["applied"]) for r in document["rules"]] == [
        (None, {"max_norm": 0.5}),
        ("disc", {"clip_value": 0.02}),
    ]
    for name, steps in (("gen", 40), ("disc", 200)):
        found = server.get(
            f"runs/{run.id}/series", stream=name, columns="global_norm,threshold", points=1000
        )
        assert found["columns"]["global_norm"]["step"] == list(range(steps))
        np.testing.assert_allclose(found["columns"]["global_norm"]["mean"], norms[name], rtol=1e-6)
    thresholds = np.array(found["columns"]["threshold"]["mean"], np.float32)
    assert (thresholds[:150] == np.float32(0.1)).all()
    assert (thresholds[150:] == np.float32(0.02)).all()
    names = [
        p["name"] for p in server.get(f"runs/{run.id}/parameters", stream="disc")["parameters"]
    ]
    assert names == [f"disc.{n}" for n, _ in pair.disc.named_parameters()]
    heat = server.get(f"runs/{run.id}/heatmap", stream="disc", points=500)
    assert np.array(heat["values"]).shape == (4, 200)
    shown = server.get(f"runs/{run.id}")
    assert ([s["name"] for s in shown["streams"]], shown["steps"], shown["strategy"]) == (
        ["gen", "disc"],
        40,
        "GlobalNorm",
    )
    events = server.get(f"runs/{run.id}/events", stream="disc", kind="threshold")["events"]
    assert [(e["stream"], e["first_step"]) for e in events] == [("disc", 150)]
    bad = server.rest.get(f"/api/v1/runs/{run.id}/series", params={"stream": "x", "columns": "lr"})
    assert bad.status_code == 422
    assert "'x' is not of this run: 'gen', 'disc'" in bad.json()["error"]["message"]


def test_a_resumed_run_goes_on_in_every_stream(server: Running) -> None:
    pair, norms = Pair(), {"gen": [], "disc": []}
    two = optimizers(pair)
    options = {"max_norm": 0.5, "server": server.url, "token": server.token}
    with gradhelm.attach(pair, two, **options) as run:
        for turn in range(10):
            if turn == 8:
                state = run.state_dict()
            play(pair, two, turn, norms)
    with gradhelm.attach(pair, two, run_id=run.id, resume=True, **options) as again:
        again.load_state_dict(state)
        for turn in range(4):
            play(pair, two, turn, norms)
    for name, steps in (("gen", 12), ("disc", 60)):
        found = server.get(f"runs/{run.id}/series", stream=name, columns="global_norm")
        assert found["columns"]["global_norm"]["step"] == list(range(steps))
        kept = (
            norms[name][: len(norms[name]) * 8 // 14] + norms[name][len(norms[name]) * 10 // 14 :]
        )
        np.testing.assert_allclose(found["columns"]["global_norm"]["mean"], kept, rtol=1e-6)


def test_each_pattern_is_steered_by_itself(server: Running) -> None:
    pair = Pair()
    optimizer = torch.optim.SGD(pair.parameters(), lr=0.1)
    clip = {"gen.*": GlobalNorm(0.5), "disc.*": Value(0.1)}
    run = gradhelm.attach(pair, optimizer, clip=clip, server=server.url, token=server.token)

    def steps(count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            (-9 * pair.disc(pair.gen(torch.ones(8, 4))).mean()).backward()
            optimizer.step()

    steps(10)
    eventually(lambda: last_step(server, run) == 9)
    own = server.put_control(run.id, 0, max_norm=0.1)
    assert own.status_code == 422
    assert "match: one of 'gen.*', 'disc.*'" in own.json()["error"]["message"]
    far = server.put_control(run.id, 0, max_norm=500.0, match="gen.*")
    assert far.json()["error"]["code"] == "out_of_range"
    assert far.json()["error"]["details"]["limits"] == {"max_norm": {"min": 0.005, "max": 50.0}}
    wrong = server.put_control(run.id, 0, max_norm=0.1, match="disc.*")
    assert wrong.json()["error"]["code"] == "unknown_value"
    assert server.put_control(run.id, 0, max_norm=0.25, match="gen.*").status_code == 202
    eventually(lambda: server.get(f"runs/{run.id}/control")["status"] == "delivered")
    steps(10)
    run.close()
    found = server.get(
        f"runs/{run.id}/series",
        columns="rule/gen.*/threshold,rule/disc.*/threshold,rule/gen.*/clip_coef,threshold",
    )["columns"]
    assert found["rule/gen.*/threshold"]["mean"] == [0.5] * 10 + [0.25] * 10
    np.testing.assert_allclose(found["rule/disc.*/threshold"]["mean"], [0.1] * 20, rtol=1e-6)
    assert found["threshold"]["mean"] == []
    assert max(found["rule/gen.*/clip_coef"]["mean"]) < 1
    (event,) = server.get(f"runs/{run.id}/events", kind="threshold")["events"]
    assert event["text"].startswith("max_norm 0.5 → 0.25 for gen.*, set by")
    assert event["threshold"] == 0.25
    history = server.get(f"runs/{run.id}/control/history")["versions"]
    assert (history[0]["match"], history[0]["step"]) == ("gen.*", 10)
