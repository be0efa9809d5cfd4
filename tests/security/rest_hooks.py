"""What schemathesis cannot know about REST: which refusals depend on the run and not on the form.

It takes every refusal of a request that follows the description for a fault of the description. Some
follow from what is stored: whether a value is within the limits that a script has set is said by no
schema. These have codes of their own, and each is expected where it is listed here and nowhere else.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any
from urllib.parse import quote

import httpx
import schemathesis
from schemathesis.core.failures import AcceptedNegativeData
from schemathesis.openapi.checks import AllowHeaderMismatch, RejectedPositiveData

RANGE = {"bad_range", "unknown_stream"}
NUMBERS = RANGE | {"unknown_pattern", "not_answerable", "too_many"}
DEPENDS: dict[str, set[str]] = {
    "list_runs": {"bad_cursor"},
    "list_events": {"bad_cursor", "unknown_stream"},
    "get_parameters": {"unknown_stream"},
    "get_series": NUMBERS,
    "get_times": {"unknown_stream"},
    "get_heatmap": NUMBERS,
    # Its thresholds are numbers separated by commas, in one text.
    "get_whatif": NUMBERS | {"bad_value: max_norm"},
    "get_advice": NUMBERS,
    "get_export": RANGE,
    "put_control": {
        "contradiction",
        "not_allowed",
        "nothing_to_change",
        "out_of_range",
        "read_only",
        "stale",
        "stopped",
        "too_far",
        "unknown_pattern",
        "unknown_stream",
        "unknown_value",
        "unknown_version",
    },
    "log_in": {"too_many_tries"},
    # Which characters are printable, and what a good password is, is said by no schema either.
    "make_user": {"bad_value: name", "bad_password"},
    "change_user": {"bad_password"},
    # Asked by a token, which has no password: whatever the form.
    "set_password": {"forbidden"},
}
SERVER, TOKEN, OWN = (os.environ[f"GRADHELM_FUZZ_{name}"] for name in ("SERVER", "TOKEN", "OWN"))
"""Where the server is, the token that all requests are made with, and its id: it stays."""


@schemathesis.hook
def filter_failure(context: Any, failure: Any, case: Any, response: Any) -> bool:
    if isinstance(failure, AllowHeaderMismatch):
        return bool(case.path != "/login")  # where the page is got, which is no part of REST
    name = case.operation.definition.raw["operationId"]
    if isinstance(failure, AcceptedNegativeData):
        return not (name == "set_password" and response.status_code == 403)
    if not isinstance(failure, RejectedPositiveData):
        return True
    error = json.loads(response.content)["error"]
    if re.search(r"expected a whole number .* not \d+\.0$", error["message"]):
        return False  # to JSON Schema 5.0 is an integer
    known = DEPENDS.get(name, set())
    field = error["message"].partition(":")[0]
    return error["code"] not in known and f"{error['code']}: {field}" not in known


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """A well-formed If-Match becomes that of the newest version, or nothing would be changed."""
    given = (case.headers or {}).get("if-match")
    if isinstance(given, str) and re.fullmatch(r'"\d{1,16}"', given) and given != '"0"':
        run = str((case.path_parameters or {}).get("run", ""))
        answer = httpx.get(
            f"{SERVER}/api/v1/runs/{quote(run, safe='')}/control",
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=30,
        )
        if answer.status_code == 200:
            case.headers["if-match"] = answer.headers["ETag"]


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    return OWN not in str((case.path_parameters or {}).get("token", ""))
