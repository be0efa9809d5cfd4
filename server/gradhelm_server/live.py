"""The browsers' socket: one run's frames, events and control as they are stored."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse
from sqlalchemy import Connection

from . import control, runs
from .errors import ApiError
from .hub import Viewer
from .state import State, state_of

router = APIRouter()
TICK = 1.0
"""Seconds between two looks at the run's summary, at the most often."""
LOOK_ANYWAY = 5
"""Ticks after which the summary is looked at even if nothing came: silence changes the status."""


@router.websocket("/api/v1/runs/{run}/live")
async def live(socket: WebSocket, run: str) -> None:
    """Text messages are JSON, binary ones frames; docs/protocol.md shows both."""
    state = state_of(socket)
    viewer = Viewer()
    state.hub.watch(run, viewer)  # first, so that nothing falls between the state and the stream
    try:
        try:
            first = await state.store.read(lambda c: _everything(c, run, state))
        except ApiError as error:
            await socket.send_denial_response(JSONResponse(error.body(), error.status))
            return
        await socket.accept()
        for message in first:
            await socket.send_json(message)
        async with asyncio.TaskGroup() as tasks:
            sender = tasks.create_task(_send(socket, run, viewer, state))
            await _until_gone(socket)
            sender.cancel()
    finally:
        state.hub.leave(run, viewer)


async def _send(socket: WebSocket, run: str, viewer: Viewer, state: State) -> None:
    shown: dict[str, Any] = {}
    looked, quiet = 0.0, 0
    try:
        while True:
            for message in await viewer.take(TICK):
                await (socket.send_bytes if isinstance(message, bytes) else socket.send_text)(
                    message  # type: ignore[arg-type]
                )
            moment = time.monotonic()
            if moment - looked < TICK:
                continue
            looked, quiet = moment, quiet + 1
            if viewer.stale or quiet >= LOOK_ANYWAY:
                viewer.stale, quiet = False, 0
                summary = await state.store.read(
                    lambda c: runs.get(c, run, time.time(), state.patience)
                )
                if summary != shown:
                    shown = summary
                    await socket.send_json({"type": "run", "run": summary})
    except (WebSocketDisconnect, ApiError, RuntimeError):
        return  # the page is gone, or the run was deleted


async def _until_gone(socket: WebSocket) -> None:
    """Pages say nothing; reading is how one learns that they have left."""
    while (await socket.receive())["type"] != "websocket.disconnect":
        pass


def _everything(connection: Connection, run: str, state: State) -> list[dict[str, Any]]:
    return [
        {"type": "run", "run": runs.get(connection, run, time.time(), state.patience)},
        {"type": "columns", "columns": runs.all_columns(connection, run)},
        {"type": "control", "control": control.document(connection, run)},
    ]
