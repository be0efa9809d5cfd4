"""Weights, updates and magnitudes on every n-th step: what they say is so, and nothing changes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn, optim

import gradhelm
from gradhelm import measures
from gradhelm.clip import GlobalNorm

from .models import losses, small, weights

MEASURES = 1  # the group of columns after the clip's own


def test_weights_updates_and_their_ratio_are_those_taken_by_hand(server):
    model = small()
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    run = gradhelm.attach(model, optimizer, max_norm=0.1, measure_every=4, server=server.url)
    expected = {}
    for step, loss in enumerate(losses(model, 12)):
        optimizer.zero_grad()
        loss.backward()
        before = {n: p.detach().clone().double() for n, p in model.named_parameters()}
        optimizer.step()
        if step % 4 == 0:
            rows = expected[step] = {}
            for name, p in model.named_parameters():
                update = (p.detach().double() - before[name]).norm().item()
                weight = before[name].norm().item()
                state = optimizer.state[p]
                v = state["exp_avg_sq"].double() / (1 - 0.999 ** state["step"].item())
                rms = (p.grad.double() ** 2 / v.clamp_min(1e-16)).mean().sqrt().item()
                rows |= {
                    f"weight_norm/{name}": weight,
                    f"update_norm/{name}": update,
                    f"update_ratio/{name}": update / weight,
                    f"update_rms/{name}": rms,
                }
    run.close()
    table = server.table(MEASURES)
    assert sorted(table) == [0, 4, 8]
    for step, rows in expected.items():
        for name, value in rows.items():
            assert table[step][name] == pytest.approx(value, rel=2e-5), (step, name)
    assert {name.split("/")[0] for name in table[0]} == {
        "weight_norm",
        "update_norm",
        "update_ratio",
        "update_rms",
        "gradient_exponent",
    }


def test_being_measured_changes_no_weight():
    def train(measure_every: int) -> list[bytes]:
        model = small()
        optimizer = optim.Adam(model.parameters(), lr=1e-2)
        run = gradhelm.attach(
            model, optimizer, max_norm=0.1, measure_every=measure_every, mode="disabled"
        )
        run.streams[""].record()
        for loss in losses(model, 10):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return weights(model)

    assert train(0) == train(1) == train(3)


def test_a_loop_that_steps_by_itself_is_measured_too(server):
    model = small()
    run = gradhelm.attach(model, max_norm=0.1, measure_every=2, server=server.url)
    norms = []
    for loss in losses(model, 6):
        model.zero_grad()
        loss.backward()
        run.clip()
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.5 * p.grad
        norms.append(0.5 * model.decoder.weight.grad.norm().item())
    run.close()
    table = server.table(MEASURES)
    assert sorted(table) == [0, 2, 4]
    for step in (0, 2, 4):
        got = table[step]["update_norm/decoder.weight"]
        assert got == pytest.approx(norms[step], rel=1e-3)


def test_closures_skipped_and_failed_steps_are_measured_once_or_not_at_all(server):
    model = small()
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    run = gradhelm.attach(
        model, optimizer, clip=GlobalNorm(1.0, nonfinite="skip"), measure_every=1, server=server.url
    )
    source = losses(model, 10)

    def closure():
        optimizer.zero_grad()
        loss = next(source)
        loss.backward()
        return loss

    optimizer.step(closure)
    closure()
    model.decoder.bias.grad[0] = math.nan
    optimizer.step()
    with pytest.raises(KeyError):
        optimizer.step(lambda: {}["no loss"])
    optimizer.step(closure)
    run.close()
    assert sorted(server.table(MEASURES)) == [0, run.step - 1]


@settings(max_examples=200)
@given(
    st.lists(
        st.one_of(
            st.floats(width=32),
            st.sampled_from([0.0, 1.0, 2.0**-14, 2.0**-24, 2.0**-25, 2.0**-48, 2.0**-49, 2.0**16]),
        ),
        max_size=40,
    )
)
def test_magnitudes_are_counted_by_powers_of_two(values):
    shares = measures.exponents([torch.tensor(values, dtype=torch.float32), torch.zeros(0)])
    expected = dict.fromkeys(measures._EXPONENTS, 0)
    for value in np.array(values, np.float32).astype(np.float64):
        size = abs(value)
        if not math.isfinite(size):
            name = "nonfinite"
        elif size == 0:
            name = "zero"
        else:
            exponent = math.frexp(size)[1] - 1
            name = str(exponent)
            if exponent < measures.LOWEST:
                name = "below"
            elif exponent >= measures.HIGHEST:
                name = "above"
        expected[name] += 1
    total = max(1, len(values))
    assert shares.tolist() == pytest.approx([count / total for count in expected.values()])


def test_a_model_in_half_precision_shows_its_underflow(server):
    model = nn.Linear(4, 4, dtype=torch.float16)
    run = gradhelm.attach(model, measure_every=1, server=server.url)
    for p in model.parameters():
        p.grad = torch.full_like(p, 2.0**-24)
    run.clip()
    run.clip()
    run.close()
    assert server.table(MEASURES)[0]["gradient_exponent/-24"] == 1.0


def test_arguments_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="measure_every must be at least 0, not -1"):
        gradhelm.attach(small(), measure_every=-1, mode="disabled")
    wide = nn.ParameterList([torch.zeros(1) for _ in range(17_000)])
    with pytest.raises(ValueError, match=r"model makes 68\d\d\d columns .*at most 65024"):
        gradhelm.attach(wide, measure_every=10, mode="disabled")
