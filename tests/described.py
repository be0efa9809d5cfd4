"""Every answer over REST that a test gets is held to what ``/api/v1/openapi.json`` says of it."""

from __future__ import annotations

import functools
import json
import re
from copy import deepcopy
from typing import Any

import httpx
import jsonschema_rs
from fastapi import FastAPI

from gradhelm_server import api
from gradhelm_server.api.described import describe


def document() -> dict[str, Any]:
    """The description of REST, without a server."""
    app = FastAPI(title="gradhelm", version="0")
    app.include_router(api.router)
    return describe(app)


@functools.cache
def _strict() -> dict[str, Any]:
    """The same, but that no answer may have a field that is not described."""
    made = deepcopy(document())
    for schema in made["components"]["schemas"].values():
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    return made


@functools.cache
def _paths() -> list[tuple[re.Pattern[str], str]]:
    return [
        (re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path))), path)
        for path in _strict()["paths"]
    ]


@functools.cache
def _validator(path: str, method: str, status: str) -> Any:
    """Of the JSON of one answer; None where the description has none. Raises KeyError for a status
    that is not described."""
    response = _strict()["paths"][path][method]["responses"][status]
    if "$ref" in response:
        response = _strict()["components"]["responses"][response["$ref"].rpartition("/")[2]]
    media = response.get("content", {}).get("application/json")
    if media is None:
        return None
    return jsonschema_rs.Draft202012Validator(
        {**media["schema"], "components": _strict()["components"]}, validate_formats=True
    )


def check(response: httpx.Response) -> None:
    """A hook for httpx. Fails where the answer is not as described."""
    method = response.request.method.lower()
    raw = response.request.url.raw_path.decode().partition("?")[0]
    path = next((template for pattern, template in _paths() if pattern.fullmatch(raw)), None)
    if path is None or method not in _strict()["paths"][path]:
        return
    response.read()
    what = f"{method.upper()} {path} → {response.status_code}"
    try:
        validator = _validator(path, method, str(response.status_code))
    except KeyError:
        raise AssertionError(f"{what} is not described: name it in answers(…)") from None
    if "application/json" not in response.headers.get("content-type", ""):
        return
    assert validator is not None, f"{what} is described without a body"
    wrong = next(validator.iter_errors(json.loads(response.content)), None)
    assert wrong is None, f"{what} is not as described: {wrong}"
