"""What is trained while loggers are compared: three sizes of what people train."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

VOCABULARY = 96


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class LanguageModel(nn.Module):
    """A GPT with tied embeddings: 3 + 12 × depth parameter tensors."""

    def __init__(self, width: int, depth: int, heads: int, length: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, bias=False)

    def forward(self, text: Tensor) -> Tensor:
        x = self.blocks(self.tokens(text) + self.places)
        return self.norm(x) @ self.tokens.weight.T


class Deep(nn.Module):
    """A narrow network of many layers: 2 × depth parameter tensors."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + torch.tanh(layer(x)) / len(self.layers) ** 0.5
        return x


class Job(NamedTuple):
    """A model and its loss on one fixed batch."""

    model: nn.Module
    loss: Callable[[], Tensor]


def _language(width: int, depth: int, heads: int, batch: int, length: int) -> Job:
    model = LanguageModel(width, depth, heads, length)
    text = torch.randint(0, VOCABULARY, (batch, length + 1))

    def loss() -> Tensor:
        logits = model(text[:, :-1])
        return nn.functional.cross_entropy(logits.flatten(0, 1), text[:, 1:].flatten())

    return Job(model, loss)


def _deep(width: int, depth: int, batch: int) -> Job:
    model = Deep(width, depth)
    source, target = torch.randn(batch, width), torch.randn(batch, width)
    return Job(model, lambda: nn.functional.mse_loss(model(source), target))


JOBS: dict[str, Callable[[], Job]] = {
    "75 layers": lambda: _language(200, 6, 8, batch=4, length=64),
    "200 layers": lambda: _deep(64, 100, batch=128),
    "25 M parameters": lambda: _language(512, 8, 8, batch=1, length=128),
}
"""By the names that they have in results."""


def build(name: str) -> Job:
    torch.manual_seed(0)
    return JOBS[name]()
