"""REST under ``/api/v1``: one module a noun."""

from __future__ import annotations

from fastapi import APIRouter

from . import access, control, events, matrix, runs

router = APIRouter()
for _part in (runs, matrix, events, control, access):
    router.include_router(_part.router)
