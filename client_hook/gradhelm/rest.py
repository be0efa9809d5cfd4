"""The way to a server by REST, with nothing but the standard library.

Law: nothing of this is used while training; it belongs to people who ask, by the command line or in a
notebook.
"""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, IncompleteRead
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import (
    BaseHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    ProxyHandler,
    Request,
    build_opener,
)

from . import address, redact, settings
from .errors import ServerError

TIMEOUT = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: dict[str, Any]
    etag: str | None


class Client:
    """One server as this user sees it.

    Raises ServerError for an address that the token must not be sent to; ``insecure``: http is accepted
    for another machine too.
    """

    def __init__(self, server: str, token: str, *, insecure: bool = False) -> None:
        try:
            self.server = address.checked(server)
            address.protected(self.server, insecure=insecure)
        except ValueError as error:
            raise ServerError(str(error)) from None
        if not token.isascii() or not token.isprintable():
            raise ServerError("the token is not one: it has characters that no token has")
        self.token = token
        # Certificates are looked at whatever somebody made the default of this Python.
        handlers: list[BaseHandler] = [
            _Straight(),
            HTTPSHandler(context=ssl.create_default_context()),
        ]
        # A proxy between a program and the server on the same machine is never meant.
        if settings.is_loopback(server):
            handlers.append(ProxyHandler({}))
        self._opener = build_opener(*handlers)

    @classmethod
    def here(cls, server: str | None = None, token: str | None = None) -> Client:
        """As told, else by GRADHELM_SERVER and GRADHELM_TOKEN, else this machine's own."""
        found = settings.read(os.environ)
        server = server or found.server
        token = token or found.token or settings.local_token(server, found.home)
        return cls(server, token, insecure=found.insecure)

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: dict[str, Any] | None = None,
        body: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
        accept: tuple[int, ...] = (),
    ) -> Answer:
        """Raises ServerError when there is no answer, or one of 400 and above not in ``accept``."""
        request = self._request(path, query, method=method, headers=headers or {})
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        with self._failing():
            try:
                with self._opener.open(request, timeout=TIMEOUT) as response:
                    return _answer(response.status, response.read(), response.headers.get("ETag"))
            except HTTPError as error:
                if error.code not in accept:
                    raise
                return _answer(error.code, error.read(), error.headers.get("ETag"))

    def download(self, path: str, query: dict[str, Any]) -> Iterator[bytes]:
        """A long answer, as it comes. Raises ServerError, also when it is cut short."""
        with (
            self._failing(),
            self._opener.open(self._request(path, query), timeout=TIMEOUT) as response,
        ):
            while part := response.read1(1 << 16):
                yield part

    def _request(self, path: str, query: dict[str, Any] | None, **more: Any) -> Request:
        url = f"{self.server}/api/v1/{path}" + (f"?{urlencode(query)}" if query else "")
        request = Request(url, **more)
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        return request

    @contextmanager
    def _failing(self) -> Iterator[None]:
        """Whatever goes wrong, said in a sentence."""
        try:
            yield
        except HTTPError as error:
            if error.code in (301, 302, 303, 307, 308):
                to = redact.harmless(error.headers.get("Location", ""))[:200]
                raise ServerError(
                    f"{self.server} redirects to {to!r}, and a token is not carried on: if that is "
                    "the server, set GRADHELM_SERVER to it"
                ) from None
            answer = _answer(error.code, error.read(), error.headers.get("ETag"))
            raise ServerError(self._why(answer)) from None
        except IncompleteRead:
            raise ServerError(f"the answer of {self.server} was cut short") from None
        except (URLError, OSError, HTTPException, ValueError) as error:
            reason = getattr(error, "reason", None)
            why = address.unreached(reason if isinstance(reason, BaseException) else error)
            raise ServerError(
                f"cannot reach {self.server}: {why}; is `gradhelm up` running?"
            ) from None

    def _why(self, answer: Answer) -> str:
        told: dict[str, Any] = answer.body.get("error", {})
        if answer.status == 401:
            return f"{self.server} wants a valid token: set GRADHELM_TOKEN"
        return str(told.get("message") or f"{self.server} answered {answer.status}")

    def find(self, wanted: str) -> dict[str, Any]:
        """A run by its id, a unique prefix of it, or the newest of exactly that name."""
        answer = self.ask("GET", f"runs/{quote(wanted, safe='')}", accept=(404,))
        if answer.status == 200:
            return answer.body
        listed = self.ask("GET", "runs", query={"q": wanted, "limit": 500}).body["runs"]
        named = [run for run in listed if run["name"] == wanted]
        if named:
            return dict(named[0])
        prefixed = [run for run in listed if run["id"].startswith(wanted)]
        if len(prefixed) == 1:
            return dict(prefixed[0])
        if prefixed:
            raise ServerError(f"{len(prefixed)} runs begin with {wanted!r}; give more of the id")
        raise ServerError(f"there is no run {wanted!r}; `gradhelm runs` lists them")


class _Straight(HTTPRedirectHandler):
    """Follows no redirect: urllib would send the token along, to whichever host it leads to."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _answer(status: int, data: bytes, etag: str | None) -> Answer:
    try:
        body = json.loads(data) if data else {}
    except ValueError:
        body = {}
    return Answer(status, body if isinstance(body, dict) else {}, etag)
