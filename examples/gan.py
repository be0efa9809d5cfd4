"""A small GAN with its two optimizers in one run: `python examples/gan.py`.

Each optimizer is a stream of the run, with its own steps, norms and thresholds; the generator's
clip is a dict of patterns, so that its layers can be steered apart. Start `gradhelm up` first.
"""

from __future__ import annotations

import argparse
import math
import time

import torch
from torch import nn

import gradhelm
from gradhelm.clip import GlobalNorm, Value


def real_points(count: int) -> torch.Tensor:
    """Points [count, 2] around a circle of eight places."""
    angle = torch.randint(8, (count,)) * (2 * math.pi / 8)
    return 2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.1 * torch.randn(count, 2)


def train(steps: int, pause: float = 0.0) -> None:
    torch.manual_seed(0)
    gan = nn.ModuleDict(
        {
            "gen": nn.Sequential(
                nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)
            ),
            "disc": nn.Sequential(
                nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)
            ),
        }
    )
    optimizers = {
        "gen": torch.optim.Adam(gan["gen"].parameters(), lr=1e-3, betas=(0.5, 0.9)),
        "disc": torch.optim.Adam(gan["disc"].parameters(), lr=1e-3, betas=(0.5, 0.9)),
    }
    clip = {
        "gen": {"gen.4.*": GlobalNorm(0.1), "*": GlobalNorm(0.3)},
        "disc": Value(0.02),
    }
    judge = nn.functional.softplus
    with gradhelm.attach(gan, optimizers, clip=clip, name="gan") as run:
        for _ in range(steps):
            for _ in range(2):
                optimizers["disc"].zero_grad()
                fake = gan["gen"](torch.randn(64, 8)).detach()
                loss_disc = (
                    judge(-gan["disc"](real_points(64))).mean() + judge(gan["disc"](fake)).mean()
                )
                loss_disc.backward()
                optimizers["disc"].step()
            optimizers["gen"].zero_grad()
            loss_gen = judge(-gan["disc"](gan["gen"](torch.randn(64, 8)))).mean()
            loss_gen.backward()
            optimizers["gen"].step()
            run.log(loss=loss_gen, loss_disc=loss_disc)
            time.sleep(pause)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000, help="generator steps")
    parser.add_argument("--pause", type=float, default=0.0, help="seconds after each")
    given = parser.parse_args()
    train(given.steps, given.pause)
