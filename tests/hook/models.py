"""Small models and the two loops that are compared: ours, and the one written by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn


def small(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Module:
    """A recurrent model with 10 parameters, in the way the demo's is one."""
    torch.manual_seed(seed)
    return _Small().to(dtype)


class _Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 12)
        self.lstm = nn.LSTM(12, 12, 2)
        self.decoder = nn.Linear(12, 20)

    def forward(self, text: Tensor) -> Tensor:
        return self.decoder(self.lstm(self.embedding(text))[0])


def losses(model: nn.Module, steps: int, seed: int = 1, scale: float = 1.0) -> Iterator[Tensor]:
    """One loss after another on the same made-up text."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        text = torch.randint(20, (8, 4), generator=generator)
        logits = model(text[:-1]).flatten(0, 1).float()
        yield scale * nn.functional.cross_entropy(logits, text[1:].flatten())


def weights(model: nn.Module) -> list[bytes]:
    """The bits of all weights."""
    return [p.detach().contiguous().view(torch.uint8).numpy().tobytes() for p in model.parameters()]


def train(model: nn.Module, step: Callable[[Tensor], None], steps: int, scale: float = 1.0) -> None:
    for loss in losses(model, steps, scale=scale):
        model.zero_grad()
        step(loss)


def one_step(model: nn.Module, value: float = 1.0) -> None:
    """Gives every parameter a gradient without a forward pass."""
    for p in model.parameters():
        p.grad = torch.full_like(p, value)
