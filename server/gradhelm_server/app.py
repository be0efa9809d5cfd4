"""The application: routes, the page when it is installed, and the gate around everything."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial

import anyio.to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from gradhelm import __version__

from . import api, ingest, live
from .api.described import describe
from .auth import BodyTooLarge, Gate
from .compactor import Compactor
from .errors import ApiError, error_body
from .hub import Hub
from .observed import CONTENT_TYPE_LATEST
from .oidc import Oidc
from .runs import Patience
from .sessions import LoginCodes, TooManyTries
from .settings import ServerSettings
from .state import State
from .store import Store

log = logging.getLogger(__name__)

POLICY = (
    "default-src 'self'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self'; connect-src 'self'; worker-src 'self'; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


Mount = Callable[[FastAPI], Iterable[str]]
"""Puts a page onto the application and returns the (quoted) CSP hashes of its inline scripts."""


class Service:
    """One server: ``asgi`` is what to serve, ``state`` what it holds.

    ``mount`` adds the page; without it the service is REST and sockets alone.
    """

    def __init__(self, settings: ServerSettings, store: Store, mount: Mount | None = None) -> None:
        self.state = State(
            store,
            Hub(),
            settings,
            LoginCodes(),
            Patience.of(settings),
            Compactor(store, settings.failed_after, settings.policy),
            oidc=None if settings.oidc is None else Oidc(settings.oidc),
        )
        _watch(self.state)
        api_app = _api(self.state)
        hashes = " ".join(mount(api_app) if mount else ())
        self.asgi: ASGIApp = Gate(api_app, store, settings, POLICY.format(hashes=hashes))


def _watch(state: State) -> None:
    """What is counted where it happens, and what is read when somebody asks."""
    observed, hub, store = state.observed, state.hub, state.store
    store.timed = observed.commits.observe
    hub.dropped = observed.dropped.inc
    observed.gauge("trainers", "Trainers that are connected", lambda: len(hub.trainers))
    observed.gauge("replays", "Segments that are being delivered", lambda: len(hub.replays))
    observed.gauge("viewers", "Pages that watch a run", lambda: hub.viewers)
    observed.gauge("writes_waiting", "Writes that wait for a commit", lambda: store.waiting)


def _api(state: State) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        state.compactor.start()
        yield
        await anyio.to_thread.run_sync(state.compactor.stop)

    app = FastAPI(
        lifespan=lifespan,
        title="gradhelm",
        version=__version__,
        summary="Gradients of training jobs, live, and their clipping, steered.",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.gradhelm = state
    app.openapi = partial(describe, app)  # type: ignore[method-assign]
    app.include_router(api.router)
    app.include_router(ingest.router)
    app.include_router(live.router)

    @app.get("/livez", include_in_schema=False)
    async def livez() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz", include_in_schema=False)
    async def readyz() -> JSONResponse:
        try:
            await state.store.read(lambda connection: connection.execute(text("SELECT 1")))
        except DBAPIError:
            return JSONResponse({"status": "the database does not answer"}, 503)
        if not state.store.alive:
            return JSONResponse({"status": "nothing can be stored"}, 503)
        return JSONResponse({"status": "ok"})

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(state.observed.told(), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> JSONResponse:
        return JSONResponse(error.body(), error.status)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "request"
        return JSONResponse(error_body("bad_value", f"{where}: {first['msg']}"), 422)

    @app.exception_handler(BodyTooLarge)
    async def too_large(_: Request, __: BodyTooLarge) -> JSONResponse:
        return JSONResponse(error_body("too_large", "at most 1 MiB is accepted"), 413)

    @app.exception_handler(TooManyTries)
    async def too_often(_: Request, error: TooManyTries) -> JSONResponse:
        seconds = max(1, math.ceil(error.when - time.time()))
        message = f"too many tries; the next one is looked at in {seconds} s"
        return JSONResponse(
            error_body("too_many_tries", message), 429, {"Retry-After": str(seconds)}
        )

    @app.exception_handler(DBAPIError)
    async def unstored(_: Request, error: DBAPIError) -> JSONResponse:
        log.error("the database refused a request: %s", error.orig)
        body = error_body("try_later", "the database cannot do this at the moment; try again")
        return JSONResponse(body, 503, {"Retry-After": "5"})

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> JSONResponse:
        codes = {404: "not_found", 405: "method_not_allowed"}
        code = codes.get(error.status_code, "error")
        return JSONResponse(
            error_body(code, str(error.detail)), error.status_code, dict(error.headers or {})
        )

    @app.exception_handler(Exception)
    async def broken(_: Request, __: Exception) -> JSONResponse:
        # Starlette raises it again, so that it is logged with its traceback.
        body = error_body("internal", "the server could not do this; its log says why")
        return JSONResponse(body, 500)

    app.add_middleware(_HeadAsGet)
    return app


class _HeadAsGet:
    """Middleware: what can be got can be asked for by HEAD; uvicorn sends no body then."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            scope = {**scope, "method": "GET", "gradhelm.head": True}
        await self._app(scope, receive, send)
