"""A small transformer on made-up sequences: many layers, so that the layer map has something to
show. An ordinary training script; run it with a server listening."""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor, nn

import gradhelm

WIDTH, HEADS, BLOCKS, WORDS, LENGTH, BATCH = 32, 4, 12, 64, 24, 8


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.ln_2 = nn.LayerNorm(WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        seen = self.ln_1(x)
        x = x + self.attn(seen, seen, seen, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(WORDS, WIDTH)
        self.h = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.head = nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, words: Tensor) -> Tensor:
        x = self.wte(words)
        for block in self.h:
            x = block(x)
        return self.head(x)


def main(asked: argparse.Namespace) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    tags = ("bf16", "AdamW 2e-3")
    with gradhelm.attach(
        model,
        optimizer,
        max_norm=1.0,
        name=asked.name,
        project="transformers",
        config={"total_steps": asked.steps},
        tags=tags,
        control=gradhelm.Control.none() if asked.read_only else None,
        measure_every=20,
        run_id=asked.resume,
        resume=asked.resume is not None,
        start_step=asked.start,
    ) as run:
        for step in range(asked.start, asked.steps):
            started = time.monotonic()
            words = torch.cumsum(torch.randint(0, 3, (BATCH, LENGTH + 1)), dim=1) % WORDS
            logits = model(words[:, :-1])
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), words[:, 1:].flatten())
            # Now and then a batch that is worth a look.
            (loss * (6.0 if step % 170 > 164 else 1.0)).backward()
            optimizer.step()
            run.log(loss=loss)
            optimizer.zero_grad()
            time.sleep(max(0.0, 1 / asked.rate - (time.monotonic() - started)))


if __name__ == "__main__":
    words = argparse.ArgumentParser(description=__doc__)
    words.add_argument("steps", type=int)
    words.add_argument("rate", type=float, help="steps per second")
    words.add_argument("name")
    words.add_argument("--read-only", action="store_true")
    words.add_argument("--resume", metavar="RUN", help="its id")
    words.add_argument("--start", type=int, default=0, metavar="STEP")
    main(words.parse_args())
