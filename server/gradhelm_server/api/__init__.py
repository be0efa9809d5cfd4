"""REST under ``/api/v1``: one module a noun."""

from __future__ import annotations

from fastapi import APIRouter

from . import advice, control, events, export, login, matrix, people, runs, server, tokens

# The name of its function is what generated clients call an operation.
router = APIRouter(generate_unique_id_function=lambda route: route.name)
for _part in (runs, matrix, export, advice, events, control, login, people, tokens, server):
    router.include_router(_part.router)
