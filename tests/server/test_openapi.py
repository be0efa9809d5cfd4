"""The description of REST is whole, and the tests that hold answers to it would notice."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import described
import httpx
import pytest
from fastapi.routing import APIRoute
from support import Running

from gradhelm_server import api
from gradhelm_server.auth import rule_for


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in described.document()["paths"].items():
        for method, operation in methods.items():
            yield method, path, operation


def test_every_operation_says_what_it_answers_and_what_it_refuses() -> None:
    found = list(operations())
    assert len(found) > 20
    shared = described.document()["components"]["responses"]
    for method, path, operation in found:
        where = f"{method} {path}"
        responses = operation["responses"]
        good = [response for status, response in responses.items() if status < "300"]
        sent_on = {"302", "303"} & responses.keys()
        assert len(good) == (0 if sent_on else 1), where
        if good and "Content-Disposition" in good[0].get("headers", {}):  # a file
            schemas = [content["schema"] for content in good[0]["content"].values()]
            assert schemas == [{"type": "string", "format": "binary"}] * len(schemas), where
        elif not sent_on and "204" not in responses:
            (media,) = [
                content for kind, content in good[0]["content"].items() if kind.endswith("json")
            ]
            assert media["schema"].keys() == {"$ref"}, f"{where}: give it answers(shape)"
        bad = {status for status in responses if status >= "400"}
        assert bad >= {"400", "431", "503"}, where
        assert all(responses[s] == {"$ref": f"#/components/responses/{s}"} for s in bad), where
        assert bad <= shared.keys(), where
        assert operation["description"], f"{where}: give its function a docstring"


def test_who_may_ask_is_what_the_gate_says() -> None:
    for method, path, operation in operations():
        rule = rule_for(method.upper(), path)
        assert rule is not None
        assert bool(operation["security"]) == (rule.action is not None), path
        if rule.action is not None:
            assert {"401", "403"} <= operation["responses"].keys()
            assert f"may {rule.action}." in operation["description"]


def test_a_body_that_is_read_is_described() -> None:
    bodies = {
        (method, path) for method, path, operation in operations() if "requestBody" in operation
    }
    routes = [route for route in flat(api.router.routes) if isinstance(route, APIRoute)]
    assert len(routes) > 20
    reading = {
        (method.lower(), route.path)
        for route in routes
        for method in route.methods
        if "read_json(" in inspect.getsource(route.endpoint)
    }
    assert reading == bodies


def flat(routes: list[Any]) -> Iterator[Any]:
    for route in routes:
        inner = getattr(route, "original_router", None)
        yield from flat(inner.routes) if inner is not None else (route,)


def test_each_schema_that_is_named_is_there() -> None:
    document = described.document()

    def named(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("$ref"), str):
                yield value["$ref"]
            for one in value.values():
                yield from named(one)
        elif isinstance(value, list):
            for one in value:
                yield from named(one)

    for reference in set(named(document)):
        place: Any = document
        for part in reference.removeprefix("#/").split("/"):
            place = place[part]
        assert place


def test_the_server_describes_itself_so(server: Running) -> None:
    found = server.get("openapi.json")
    assert found["paths"] == described.document()["paths"]
    assert found["info"]["title"] == "gradhelm"


GOOD = {"code": "x", "expires_in": 600.0}


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (201, GOOD, None),
        (201, {**GOOD, "more": 1}, "more"),
        (201, {"code": "x"}, "expires_in"),
        (201, {**GOOD, "code": None}, "not of type"),
        (403, {"error": {"code": "x", "message": "y", "details": {}}}, None),
        (403, {"detail": "x"}, "not as described"),
        (418, {}, "418 is not described"),
    ],
)
def test_an_answer_that_is_not_as_described_is_noticed(status, body, words) -> None:
    request = httpx.Request("POST", "http://localhost/api/v1/login-links")
    answer = httpx.Response(status, json=body, request=request)
    if words is None:
        described.check(answer)
    else:
        with pytest.raises(AssertionError, match=words):
            described.check(answer)
