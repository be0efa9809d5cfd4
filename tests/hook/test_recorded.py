"""What is recorded is what happened: norms, coefficients, steps, what is missing."""

from __future__ import annotations

import math
import threading
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import gradhelm
from gradhelm import layout, notice, wire
from gradhelm.clip import GlobalNorm, SkipStep, Value

from .models import losses, one_step, small


def attached(server, model, optimizer=None, **options):
    return gradhelm.attach(model, optimizer, server=server.url, **options)


def sgd(model, lr=0.1):
    return torch.optim.SGD(model.parameters(), lr=lr)


def test_norms_and_coefficients_are_those_of_a_float64_oracle(server):
    model = small()
    optimizer = sgd(model)
    run = attached(server, model, optimizer, max_norm=0.4)
    expected = []
    for loss in losses(model, 60):
        optimizer.zero_grad()
        loss.backward()
        exact = [p.grad.double().norm().item() for p in model.parameters()]
        grads = [p.grad for p in model.parameters()]
        total = nn.utils.get_total_norm(grads)
        expected.append((exact, torch.clamp(0.4 / (total + 1e-6), max=1.0).item()))
        optimizer.step()
    run.close()
    names = [name for name, _ in model.named_parameters()]
    for step, (norms, coefficient) in enumerate(expected):
        row = server.table()[step]
        assert [row[f"norm/{name}"] for name in names] == pytest.approx(norms, rel=2e-6)
        assert row["global_norm"] == pytest.approx(math.hypot(*norms), rel=2e-6)
        assert row["clip_coef"] == np.float32(coefficient)
        assert row["clipped"] == (coefficient < 1)
        assert row["post_norm"] == pytest.approx(row["global_norm"] * coefficient, rel=1e-6)
        assert row["threshold"] == np.float32(0.4)
        assert row["lr"] == np.float32(0.1)
        assert row["skipped"] == row["nonfinite"] == 0


def test_a_parameter_without_a_gradient_is_missing_and_not_zero(server):
    model = small()
    model.decoder.bias.requires_grad_(False)
    optimizer = sgd(model)
    run = attached(server, model, optimizer, max_norm=1.0)
    one_step(model)
    model.decoder.bias.grad = None
    model.embedding.weight.grad = None
    optimizer.step()
    run.close()
    row = server.table()[0]
    assert "norm/decoder.bias" not in row
    assert "norm/embedding.weight" not in row
    assert row["norm/decoder.weight"] == pytest.approx(math.sqrt(240))
    assert "norm/decoder.bias" in [column.name for column in server.columns[0]]


def test_a_tied_parameter_is_counted_once(server):
    model = small()
    model.decoder = nn.Linear(12, 20, bias=False)
    model.decoder.weight = model.embedding.weight
    optimizer = sgd(model)
    run = attached(server, model, optimizer)
    one_step(model)
    optimizer.step()
    run.close()
    names = [column.name for column in server.columns[0]]
    assert names.count("norm/embedding.weight") == 1
    assert "norm/decoder.weight" not in names


def test_what_the_optimizer_steps_is_clipped_and_nothing_else(server):
    model = small()
    extra = nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD(
        [{"params": model.decoder.parameters()}, {"params": [extra], "lr": 0.5}], lr=0.1
    )
    run = attached(server, model, optimizer, max_norm=1.0)
    one_step(model)
    extra.grad = torch.ones(3)
    optimizer.step()
    run.close()
    row = server.table()[0]
    assert {name for name in row if name.startswith("norm/")} == {
        "norm/decoder.weight",
        "norm/decoder.bias",
        "norm/optimizer.1.0",
    }
    assert row["global_norm"] == pytest.approx(math.sqrt(240 + 20 + 3))
    assert extra.grad.norm() < 0.2
    assert model.embedding.weight.grad.eq(1).all()


def test_parameters_added_later_are_clipped_too(server, caplog):
    model = small()
    optimizer = torch.optim.SGD(model.decoder.parameters(), lr=0.1)
    run = attached(server, model, optimizer, max_norm=1.0)
    optimizer.add_param_group({"params": [model.embedding.weight]})
    one_step(model)
    optimizer.step()
    run.close()
    assert model.embedding.weight.grad.max() < 0.1
    assert server.table()[0]["global_norm"] == pytest.approx(math.sqrt(240 + 20 + 240))
    assert "added to the optimizer after attach" in caplog.text


def test_names_lose_the_prefixes_of_wrappers(server):
    model = nn.Sequential()
    model.module = nn.Sequential()
    model.module._orig_mod = small()
    run = attached(server, model)
    run.clip()
    run.close()
    assert server.columns[0][-1].name == "norm/decoder.bias"


def test_long_and_equal_names_stay_apart():
    names = list(layout._distinct(["a" * 300, "a" * 299 + "b", "x", "x", "x#2"]))
    assert len(set(names)) == 5
    assert max(map(len, names)) <= 200


def test_nonfinite_norms_are_recorded_as_such(server):
    model = small()
    optimizer = sgd(model)
    run = attached(server, model, optimizer, every=10)
    for step in range(4):
        one_step(model)
        if step == 2:
            model.decoder.bias.grad[3] = math.inf
            model.decoder.weight.grad[0, 0] = math.nan
        optimizer.step()
    run.close()
    assert sorted(server.table()) == [0, 2]
    row = server.table()[2]
    assert math.isnan(row["global_norm"])
    assert math.isnan(row["norm/decoder.weight"])
    assert row["norm/decoder.bias"] == math.inf
    assert row["nonfinite"] == 2


def test_every_thins_rows_but_keeps_the_clipped_ones(server):
    model = small()
    optimizer = sgd(model)
    run = attached(server, model, optimizer, max_norm=1000.0, every=5)
    for step in range(20):
        one_step(model, 1000.0 if step in (7, 8) else 1.0)
        optimizer.step()
    run.close()
    assert sorted(server.table()) == [0, 5, 7, 8, 10, 15]


def test_every_thins_no_skipped_step(server):
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with gradhelm.attach(model, optimizer, clip=SkipStep(window=20), every=10, server=server.url):
        for step in range(45):
            one_step(model, 9.0 if step == 33 else 1.0 + step % 3)
            optimizer.step()
    table = server.table()
    assert sorted(table) == [0, 10, 20, 30, 33, 40]
    assert [step for step, row in table.items() if row["skipped"]] == [33]


def test_value_records_the_exact_share_of_changed_elements(server):
    model = nn.Linear(10, 10)
    optimizer = sgd(model)
    run = attached(server, model, optimizer, clip=Value(0.5))
    for step in range(12):
        model.weight.grad = torch.linspace(-1, 1, 100).view(10, 10)
        model.bias.grad = torch.full((10,), 0.1)
        if step == 11:
            model.weight.grad.mul_(0.01)
        exact = torch.cat([g.flatten() for g in (model.weight.grad, model.bias.grad)])
        share = (exact.abs() > 0.5).float().mean().item()
        clamped = exact.clamp(-0.5, 0.5).norm().item()
        optimizer.step()
    run.close()
    table = server.table()
    assert table[0]["clip_share"] == pytest.approx(50 / 110)
    assert table[0]["post_norm"] == pytest.approx(
        torch.cat([torch.linspace(-1, 1, 100).clamp(-0.5, 0.5), torch.full((10,), 0.1)]).norm()
    )
    assert "post_norm" not in table[1]
    assert table[11]["clip_share"] == share == 0
    assert table[11]["post_norm"] == pytest.approx(clamped)
    assert "clip_coef" not in table[0]


def test_logged_scalars_belong_to_the_step_last_taken(server):
    model = small()
    optimizer = sgd(model)
    run = attached(server, model, optimizer, start_step=100)
    run.log(before=1)
    for step in range(3):
        one_step(model)
        optimizer.step()
        value = torch.tensor(float(step), requires_grad=True)
        run.log(loss=value, acc=0.5)
        run.log(loss=10 + step)
        value.data.add_(1000)
    run.log(late=np.float64(2.5), big=1e300, flag=True)
    run.close()
    logged = server.logged()
    assert logged[100] == {"before": 1, "loss": 10, "acc": 0.5}
    assert logged[101] == {"loss": 11, "acc": 0.5}
    assert logged[102] == {"loss": 12, "acc": 0.5, "late": 2.5, "big": math.inf, "flag": 1}
    assert server.of(wire.Finish)[0].step == 102


def test_what_cannot_be_logged_costs_one_warning_and_no_exception(server, caplog):
    model = small()
    run = attached(server, model)
    for _ in range(3):
        run.log(loss="low", pair=torch.zeros(2), obj=object(), text=b"1", c=1j)
        run.log(**{"": 1, "a\nb": 1, "x" * 201: 1})
    run.log(global_norm=7, lr=0.5, **{"norm/x": 1.0, "nan": math.nan})
    run.close()
    warned = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert len([text for text in warned if text.startswith("cannot log")]) == 8
    row = server.logged()[0]
    assert row.pop("nan") != row
    assert row == {"log/global_norm": 7, "log/lr": 0.5, "log/norm/x": 1}


class Nested(torch.optim.SGD):
    def step(self, closure=None):
        return super().step(closure)


def test_an_optimizer_that_calls_super_step_is_clipped_once(server):
    torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    model = small()
    optimizer = Nested(model.parameters(), lr=0.1)
    run = attached(server, model, optimizer, max_norm=1.0)
    for _ in range(5):
        one_step(model)
        optimizer.step()
    run.close()
    assert run.step == 5
    assert len(server.table()) == 5
    assert all(row["clipped"] for row in server.table().values())


class Stumbling(Nested):
    fails = True

    def step(self, closure=None):
        if self.fails:
            raise OSError("stumbled")
        return super().step(closure)


def test_a_step_that_raised_does_not_stop_the_clipping_of_the_next():
    model = small()
    optimizer = Stumbling(model.parameters(), lr=0.1)
    run = gradhelm.attach(model, optimizer, max_norm=1.0, mode="disabled")
    one_step(model)
    with pytest.raises(OSError, match="stumbled"):
        optimizer.step()
    optimizer.fails = False
    one_step(model)
    optimizer.step()
    assert run.step == 2
    assert nn.utils.get_total_norm([p.grad for p in model.parameters()]) < 1.0001


@pytest.mark.parametrize("by_keyword", [True, False])
def test_a_closure_is_clipped_after_its_backward_pass(server, by_keyword):
    model = small()
    optimizer = sgd(model)
    run = attached(server, model, optimizer, max_norm=1.0)

    def closure():
        optimizer.zero_grad()
        one_step(model)
        return 4.5

    for _ in range(3):
        result = optimizer.step(closure=closure) if by_keyword else optimizer.step(closure)
        assert result == 4.5
    run.close()
    assert nn.utils.get_total_norm([p.grad for p in model.parameters()]) < 1.0001
    assert [row["clipped"] for row in server.table().values()] == [1, 1, 1]


def test_lbfgs_is_clipped_at_each_evaluation_and_recorded_once_a_step(server):
    model = nn.Linear(3, 1)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=6)
    run = attached(server, model, optimizer, max_norm=0.01)
    seen = []

    def closure():
        seen.append(nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())
        optimizer.zero_grad()
        loss = (model(torch.ones(5, 3)) - 1000).pow(2).sum()
        loss.backward()
        return loss

    one_step(model, 0.0)
    for _ in range(2):
        optimizer.step(closure)
    run.close()
    assert len(seen) > 4
    assert max(seen) <= 0.010001
    assert sorted(server.table()) == [0, 1]


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("unscale", [True, False])
def test_a_step_that_the_scaler_skips_is_numbered_and_reported(server, fused, unscale):
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, fused=fused)
    run = attached(server, model, optimizer, max_norm=0.5, every=100)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    for i, loss in enumerate(losses(model, 6)):
        optimizer.zero_grad()
        scaler.scale(loss * (math.inf if i == 3 else 1)).backward()
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    run.close()
    table = server.table()
    assert run.step == 6
    assert table[3]["skipped"] == 1
    assert "global_norm" not in table[3]
    assert all(row["skipped"] == 0 for step, row in table.items() if step != 3)
    assert table[0]["global_norm"] < 10


def test_run_clip_returns_the_norm_before_clipping(server):
    model = small()
    run = attached(server, model, max_norm=1.0)
    assert run.clip() == 0.0
    one_step(model)
    norm = run.clip()
    assert norm.shape == ()
    assert norm == pytest.approx(math.sqrt(sum(p.numel() for p in model.parameters())))
    assert nn.utils.get_total_norm([p.grad for p in model.parameters()]) < 1.0001
    run.close()
    assert "lr" not in server.table()[1]
    assert "global_norm" not in server.table()[0]


def test_clip_with_an_optimizer_would_clip_twice_and_says_so():
    model = small()
    run = gradhelm.attach(model, sgd(model), max_norm=1.0, mode="disabled")
    with pytest.raises(RuntimeError, match=r"optimizer\.step"):
        run.clip()


def test_an_error_of_the_clip_reaches_the_loop_and_leaves_gradients_alone():
    model = small()
    optimizer = sgd(model)
    gradhelm.attach(model, optimizer, clip=GlobalNorm(1.0, nonfinite="raise"), mode="disabled")
    one_step(model)
    model.decoder.bias.grad[0] = math.nan
    with pytest.raises(RuntimeError, match="non-finite"):
        optimizer.step()
    assert model.decoder.weight.grad.eq(1).all()


def test_a_fault_of_our_own_costs_one_warning_and_no_step(server, caplog, monkeypatch):
    monkeypatch.setattr(notice, "strict", False)
    model = small()
    optimizer = sgd(model)
    run = attached(server, model, optimizer, max_norm=1.0)
    monkeypatch.setattr(run.streams[""].recorder, "step", lambda *_: 1 / 0)
    for _ in range(3):
        one_step(model)
        optimizer.step()
    assert run.step == 3
    assert model.decoder.bias.grad.max() < 1
    run.close()
    assert caplog.text.count("ZeroDivisionError") == 1


def test_a_closed_run_still_clips_and_a_new_one_may_take_over():
    model = small()
    optimizer = sgd(model)
    first = gradhelm.attach(model, optimizer, max_norm=1.0, mode="disabled")
    with pytest.raises(ValueError, match="attached"):
        gradhelm.attach(model, optimizer, max_norm=1.0, mode="disabled")
    first.close()
    one_step(model)
    optimizer.step()
    assert nn.utils.get_total_norm([p.grad for p in model.parameters()]) < 1.0001
    second = gradhelm.attach(model, optimizer, max_norm=2.0, mode="disabled")
    one_step(model)
    optimizer.step()
    assert second.step == 1
    norm = nn.utils.get_total_norm([p.grad for p in model.parameters()])
    assert norm == pytest.approx(2.0, rel=1e-5)


def test_state_goes_through_a_checkpoint():
    model = small()
    run = gradhelm.attach(model, max_norm=1.0, mode="disabled")
    for _ in range(3):
        run.clip()
    run.streams[""].strategy.set(max_norm=0.5)
    state = run.state_dict()
    again = gradhelm.attach(
        model, max_norm=1.0, mode="disabled", run_id=state["run_id"], resume=True
    )
    again.load_state_dict(state)
    assert (again.id, again.step, again.threshold) == (run.id, 3, 0.5)
    again.clip()
    again.load_state_dict(state)
    assert again.step == 4


def test_disabled_runs_make_no_thread_and_no_column(monkeypatch):
    before = threading.active_count()
    monkeypatch.setenv("GRADHELM_MODE", "disabled")
    run = gradhelm.attach(small(), max_norm=1.0)
    run.log(loss=1.0)
    run.clip()
    run.close()
    assert threading.active_count() == before
    assert run.stats() == {}


def test_nothing_warns_in_python(server):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = small().double()
        run = attached(server, model, max_norm=1e300)
        one_step(model, 1e200)
        run.clip()
        run.close()
    assert server.table()[0]["global_norm"] == math.inf
