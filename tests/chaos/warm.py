"""Imported once by the process that others are forked from: what a first step takes long for."""

from __future__ import annotations

import torch
import websockets.sync.client

import gradhelm
import gradhelm.hook
import gradhelm.link
import gradhelm_server.serving

torch.set_num_threads(1)
_model = torch.nn.Linear(2, 2)
_optimizer = torch.optim.SGD(_model.parameters(), lr=0.0)
with gradhelm.attach(_model, _optimizer, max_norm=1.0, mode="disabled"):
    _model(torch.ones(1, 2)).sum().backward()
    _optimizer.step()

__all__ = ["gradhelm_server", "websockets"]
