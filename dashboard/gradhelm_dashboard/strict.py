"""What comes for Dash, looked at first: it takes whatever reaches it for its own page's traffic, and
answers the rest with a fault of the server.

Law: what passes is a callback that this page has, with the arguments that its scripts send, or a file
that Dash offers; anything else is told what is wrong with it.
"""

from __future__ import annotations

import json
from importlib.resources import files as files_of
from typing import Any, Final

from dash import Dash
from dash.fingerprint import check_fingerprint
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CALLBACK: Final = "/_dash-update-component"
SUITES: Final = "/_dash-component-suites/"
MAX_BODY: Final = 64 * 1024
"""Bytes of a callback; the page's own have a few hundred."""


class Strict:
    """Middleware around Dash's own; ``page`` is the Dash app whose callbacks there are."""

    def __init__(self, app: ASGIApp, page: Dash) -> None:
        self._app = app
        self._callbacks: dict[str, dict[str, Any]] = page.callback_map
        # Dash names source maps that its packages do not bring.
        self._files = {
            (package, file)
            for package, files in page.registered_paths.items()
            for file in files
            if (files_of(package) / file).is_file()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"] if scope["type"] == "http" else ""
        refusal: JSONResponse | None = None
        if path == CALLBACK:
            body = await _read(receive)
            refusal = self._no_callback(scope, body)
            receive = _again(body, receive)
        elif path.startswith(SUITES) and not self._offered(path.removeprefix(SUITES)):
            refusal = _refused(404, "not_found", "there is no such file")
        await (refusal or self._app)(scope, receive, send)

    def _offered(self, path: str) -> bool:
        package, _, file = path.partition("/")
        found: str = check_fingerprint(file)[0]  # type: ignore[no-untyped-call]
        return (package, found) in self._files

    def _no_callback(self, scope: Scope, body: bytes) -> JSONResponse | None:
        """Why ``body`` is no callback of the page; None when it is one."""
        if len(body) > MAX_BODY:
            return _refused(413, "too_large", f"a callback has at most {MAX_BODY // 1024} KiB")
        kind = dict(scope["headers"]).get(b"content-type", b"")
        if kind.partition(b";")[0].strip().lower() != b"application/json":
            return _refused(415, "not_json", "expected Content-Type: application/json")
        try:
            asked = json.loads(body)
        except (ValueError, RecursionError):
            return _refused(422, "bad_json", "the body is not proper JSON")
        if not isinstance(asked, dict) or not isinstance(asked.get("output"), str):
            return _refused(422, "bad_callback", "expected a JSON object that names an output")
        known = self._callbacks.get(asked["output"])
        if known is None or "callback" not in known:
            return _refused(422, "bad_callback", "output: this page has no such callback")
        for field in ("inputs", "state"):
            if not _as_declared(asked.get(field, []), known[field]):
                return _refused(422, "bad_callback", f"{field}: not those of this callback")
        changed = asked.get("changedPropIds", [])
        if not isinstance(changed, list) or not all(isinstance(one, str) for one in changed):
            return _refused(422, "bad_callback", "changedPropIds: expected a list of texts")
        name, _, prop = asked["output"].rpartition(".")
        if asked.get("outputs", {"id": name, "property": prop}) != {"id": name, "property": prop}:
            return _refused(422, "bad_callback", "outputs: not that of this callback")
        return None


def _as_declared(given: object, declared: list[dict[str, Any]]) -> bool:
    """Whether ``given`` are the declared arguments in their order; all of ours are texts or null."""
    if not isinstance(given, list) or len(given) != len(declared):
        return False
    return all(
        isinstance(one, dict)
        and one.keys() <= {"id", "property", "value"}
        and (one.get("id"), one.get("property")) == (own["id"], own["property"])
        and isinstance(one.get("value"), str | None)
        for one, own in zip(given, declared, strict=True)
    )


async def _read(receive: Receive) -> bytes:
    """The body, or the beginning of one that is too long."""
    body = b""
    while len(body) <= MAX_BODY:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
    return body


def _again(body: bytes, receive: Receive) -> Receive:
    """``receive`` as it was before ``body`` was read from it."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return first.pop() if first else await receive()

    return again


def _refused(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": {"code": code, "message": message, "details": {}}}, status)
