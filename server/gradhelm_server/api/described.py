"""What ``/api/v1/openapi.json`` says of the routes beyond what FastAPI sees by itself.

A route says what it takes and answers (``takes``, ``answers``); what holds for all of them is added
from the gate's own table: who may ask, and what everybody may be refused for.
"""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import TypeAdapter

from ..auth import Rule, rule_for
from .shapes import Error

REF: Final = "#/components/schemas/{model}"
WHY: Final = {
    400: "bad_host: the Host is not one that this server answers to; bad_request, cut_short: no "
    "whole request",
    401: "unauthorized: no credentials, or none that are good (any more)",
    403: "forbidden: the role may not do this; bad_origin: a request from another page; "
    "bad_credentials: not the old password",
    404: "not_found: there is no such thing",
    409: "what it is about has ended, or is as asked for already; the code says which",
    412: "stale: somebody was quicker; `details.current` is the document as it is now",
    413: "too_large: the body has more than 1 MiB",
    415: "not_json: expected Content-Type: application/json",
    422: "a value cannot be taken; the code says of which kind, the message which and what can be",
    428: "if_match_needed: the version that the change is based on is missing",
    429: "too_many_tries: `Retry-After` says for how many seconds",
    431: "too_large: the request's head has more than 64 KiB",
    503: "try_later: the database cannot do this at the moment; `Retry-After` says when to ask",
}
"""Status -> the codes that errors of it have, and when."""
RETRY: Final = {
    "Retry-After": {"description": "Seconds", "schema": {"type": "integer", "minimum": 0}}
}


def answers(
    shape: Any,
    *errors: int,
    status: int = 200,
    headers: dict[str, str] | None = None,
    binary: str | None = None,
) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route: a body of ``shape`` (None: none), and the errors that are its
    own. ``headers``: what each of them is; ``binary``: what comes instead where that is asked for.
    """
    good: dict[str, Any] = {"description": "Done"}
    if shape is not None:
        good |= {"model": shape, "description": _first_sentence(shape)}
    if headers is not None:
        good["headers"] = {
            name: {"description": text, "schema": {"type": "string"}}
            for name, text in headers.items()
        }
    if binary is not None:
        schema = {"type": "string", "format": "binary", "description": binary}
        good["content"] = {"application/octet-stream": {"schema": schema}}
    found: dict[int | str, dict[str, Any]] = {status: good}
    return found | {error: {} for error in errors}


def file(*media_types: str) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that answers with a file of one of these types."""
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in media_types}
    name = {"description": "attachment; filename=…", "schema": {"type": "string"}}
    good = {"description": "A file", "content": content, "headers": {"Content-Disposition": name}}
    return {200: good}


def led(where: str) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route that sends a browser elsewhere."""
    headers = {"Location": {"description": where, "schema": {"type": "string"}}}
    return {
        302: {"description": "Sent on", "headers": headers},
        303: {"description": "Sent on", "headers": headers},
    }


def takes(shape: Any, *, required: bool = True) -> dict[str, Any]:
    """The ``openapi_extra`` of a route whose body is read by hand."""
    schema = TypeAdapter(shape).json_schema(ref_template=REF)
    content = {"application/json": {"schema": schema}}
    return {"requestBody": {"required": required, "content": content}}


def not_modified() -> dict[int | str, dict[str, Any]]:
    return {304: {"description": "The asker has it already, as If-None-Match says"}}


IF_NONE_MATCH: Final = {
    "parameters": [
        {
            "name": "If-None-Match",
            "in": "header",
            "required": False,
            "description": "The ETag of an answer that the asker has",
            "schema": {"type": "string"},
        }
    ]
}


def describe(app: FastAPI) -> dict[str, Any]:
    """The whole document; made once."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    made = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    schemas = made.setdefault("components", {}).setdefault("schemas", {})
    for unused in ("HTTPValidationError", "ValidationError"):  # ours have one shape of their own
        schemas.pop(unused, None)
    schemas["Error"], parts = _taken_apart(TypeAdapter(Error).json_schema(ref_template=REF))
    schemas.update(parts)
    made["components"]["responses"] = {str(status): _refusal(status) for status in WHY}
    made["components"]["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "description": "`gradhelm token create`"},
        "session": {
            "type": "apiKey",
            "in": "cookie",
            "name": "gradhelm-PORT",
            "description": "The cookie of `POST /login`; `__Host-gradhelm` over https. What "
            "changes something needs the server's own Origin besides.",
        },
    }
    for path, operations in made["paths"].items():
        for method, operation in operations.items():
            rule = rule_for(method.upper(), path)
            assert rule is not None, f"{method} {path} is in no rule of the gate"
            _complete(operation, rule, path, schemas)
    app.openapi_schema = made
    return made


def _complete(operation: dict[str, Any], rule: Rule, path: str, schemas: dict[str, Any]) -> None:
    operation["security"] = [] if rule.action is None else [{"token": []}, {"session": []}]
    responses = operation["responses"]
    errors = {400, 431, 503}
    if rule.action is not None or "requestBody" in operation:
        errors.add(403)
    if rule.action is not None:
        errors.add(401)
        operation["description"] = (
            f"{operation.get('description', '')}\n\nFor who may {rule.action}.".strip()
        )
    if "{" in path:
        errors.add(404)
    if operation.get("parameters"):
        errors.add(422)
    if "requestBody" in operation:
        errors |= {413, 415, 422}
        (media,) = operation["requestBody"]["content"].values()
        media["schema"], parts = _taken_apart(media["schema"])
        schemas.update(parts)
    for status in {*map(str, errors), *(s for s in responses if s >= "400")}:
        responses[status] = {"$ref": f"#/components/responses/{status}"}
    for response in responses.values():
        for media in response.get("content", {}).values():
            if "$ref" in media["schema"]:  # beside it, what FastAPI sees: dict[str, Any]
                media["schema"] = {"$ref": media["schema"]["$ref"]}
    operation["responses"] = dict(sorted(responses.items()))
    for parameter in operation.get("parameters", ()):
        _without_null(parameter["schema"])
        if parameter["name"] == "if-match":
            parameter["required"] = True  # its absence has a status of its own


def _refusal(status: int) -> dict[str, Any]:
    schema = {"$ref": REF.format(model="Error")}
    found = {"description": WHY[status], "content": {"application/json": {"schema": schema}}}
    return found | ({"headers": RETRY} if status in (429, 503) else {})


def _without_null(schema: dict[str, Any]) -> None:
    """A parameter may be missing, but it cannot be null."""
    some = [one for one in schema.pop("anyOf", []) if one != {"type": "null"}]
    if len(some) == 1:
        schema.update(some[0])
    elif some:
        schema["anyOf"] = some


def _taken_apart(schema: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A schema, and those that it refers to by name."""
    return {k: v for k, v in schema.items() if k != "$defs"}, schema.get("$defs", {})


def _first_sentence(shape: Any) -> str:
    text = (getattr(shape, "__doc__", None) or "").split("\n\n")[0]
    return " ".join(text.split()) or "Done"
