"""What REST takes and answers, as types: ``/api/v1/openapi.json`` is made from them.

Routes build their answers as plain dicts, which are as quick as can be; tests hold every answer that
they get to what is written here (``tests/described.py``), and schemathesis the requests.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Required

from pydantic import Field, WithJsonSchema, with_config
from typing_extensions import TypedDict

from gradhelm import wire

At = Annotated[str, WithJsonSchema({"type": "string", "format": "date-time"})]
"""A time: RFC 3339, UTC."""
Values = dict[str, float]
"""A strategy's values by their names, such as ``max_norm``."""
StatusOfRun = Literal["live", "stale", "failed", "finished", "stopped"]
StatusOfVersion = Literal[
    "pending", "delivered", "applied", "rejected", "superseded", "expired", "reverted"
]
KindOfEvent = Literal["clip_burst", "spike", "nonfinite", "threshold", "gap", "status"]
Role = Literal["viewer", "operator", "admin", "ingest", "metrics"]
Grants = dict[str, Literal["viewer", "operator", "admin"]]
"""Project, or ``*`` for all of them -> role."""


class Reason(TypedDict):
    """Why not: a code for programs, a sentence for people, and what else is known."""

    code: str
    message: str
    details: dict[str, Any]


class Error(TypedDict):
    """The one shape of all errors."""

    error: Reason


# -- runs -----------------------------------------------------------------------------------------


class Recent(TypedDict, total=False):
    """The newest steps, at most 500, in figures; empty as long as there are none.

    ``global_norm`` is of the newest step alone, null where it is not finite.
    """

    steps: int
    clipped: int
    clip_fraction: float
    nonfinite: int
    mean_norm: float | None
    global_norm: float | None
    steps_per_second: float | None


class StreamOfRun(TypedDict):
    """One of several optimizers, and how far it has come."""

    name: str
    first_step: int | None
    last_step: int | None


class NewestVersion(TypedDict):
    """The newest control version, and what became of it."""

    version: int
    status: StatusOfVersion


class _Run(TypedDict):
    id: str
    name: str
    project: str
    status: StatusOfRun
    status_reason: str | None
    config: dict[str, Any]
    tags: list[str]
    note: str
    strategy: str
    threshold_name: str | None
    threshold: float | None
    coded: Values
    streams: list[StreamOfRun]
    first_step: int | None
    last_step: int | None
    steps: int
    total_steps: int | None
    clip_fraction: float | None
    recent: Recent
    nonfinite: int
    skipped: int
    global_norm: float | None
    norm_finite: bool
    steps_per_second: float | None
    created_at: At
    last_heard_at: At
    finished_at: At | None
    control: NewestVersion
    host: str
    hook: str
    stats: Values


class Run(_Run, total=False):
    """A run. ``sparkline``, its newest norms thinned to at most 60, comes only where asked for."""

    sparkline: list[float | None]


class Runs(TypedDict):
    """A page of runs, and how many of each status there are in all."""

    runs: list[Run]
    next_cursor: str | None
    counts: dict[StatusOfRun, int]


NO_NUL = r"^[^\x00]*$"
Tag = Annotated[str, Field(min_length=1, max_length=wire.MAX_NAME, pattern=NO_NUL)]


@with_config(extra="forbid")
class RunChange(TypedDict, total=False):
    """What is to be changed about a run; what is not named stays."""

    name: Annotated[str, Field(min_length=1, max_length=wire.MAX_NAME, pattern=NO_NUL)]
    note: Annotated[str, Field(max_length=10_000, pattern=NO_NUL)]
    tags: Annotated[list[Tag], Field(max_length=64)]


class Column(TypedDict):
    index: int
    name: str
    kind: Literal["scalar", "norm", "detail", "log"]


class Columns(TypedDict):
    columns: list[Column]


class Parameter(TypedDict):
    """A row of the heatmap. ``column`` is what ``series`` knows its norms as."""

    index: int
    name: str
    shape: list[int]
    numel: int
    dtype: str
    column: str
    column_index: int


class Parameters(TypedDict):
    parameters: list[Parameter]


class Event(TypedDict):
    """Something that happened from a step to another, in a sentence."""

    id: int
    kind: KindOfEvent
    stream: str | None
    segment: str | None
    first_step: int | None
    last_step: int | None
    count: int
    peak_step: int | None
    peak_norm: float | None
    threshold: float | None
    parameter: str | None
    text: str
    at: At


class Events(TypedDict):
    events: list[Event]
    next_cursor: str | None


# -- numbers --------------------------------------------------------------------------------------


class Series(TypedDict):
    """One column in buckets: ``step`` is the first of each. What is not finite is counted only."""

    step: list[int]
    min: list[float | None]
    mean: list[float | None]
    max: list[float | None]
    nonfinite: list[int]


class SeriesOfColumns(TypedDict):
    columns: dict[str, Series]
    first: int
    last: int
    stride: int


class Times(TypedDict):
    """When steps were taken: seconds since the first of them."""

    started_at: At | None
    step: list[int]
    elapsed: list[float]


class Heatmap(TypedDict):
    """``values`` has a row for each of ``rows``, which are indices of parameters; ``nonfinite`` are
    places in it, [row, bucket]."""

    rows: list[int]
    origin: int
    stride: int
    first: int
    last: int
    values: list[list[float | None]]
    nonfinite: list[Annotated[list[int], Field(min_length=2, max_length=2)]]


class Clipped(TypedDict):
    clipped: int
    clip_fraction: float | None


class WouldHave(TypedDict):
    max_norm: float
    clipped: int
    clip_fraction: float | None
    mean_coef: float | None


class WhatIf(TypedDict):
    first: int
    last: int
    steps: int
    actual: Clipped
    results: list[WouldHave]


class Range(TypedDict):
    min: float
    max: float


class Suggestion(TypedDict):
    kind: Literal["statistic", "customary"]
    name: str
    value: float
    reason: str
    source: str
    clip_fraction: float | None
    allowed: bool
    note: str | None


class Finding(TypedDict):
    """What is the case, by which figures, and what helps; ``max_norm``: a threshold that would."""

    kind: Literal[
        "nonfinite",
        "growing",
        "clips_most",
        "scale_is_invisible",
        "never_clips",
        "one_layer",
        "dead",
        "vanishing",
        "update_ratio_high",
        "update_ratio_low",
    ]
    text: str
    help: str
    source: str
    parameters: list[str]
    max_norm: float | None


class Advice(TypedDict):
    first: int
    last: int
    steps: int
    finite: int
    warnings: list[Finding]
    note: str | None
    limits: Range | None
    suggestions: list[Suggestion]


# -- control --------------------------------------------------------------------------------------


Share = Annotated[float, Field(ge=0, le=1)]
Factor = Annotated[float, Field(ge=1 / wire.MAX_LR_FACTOR, le=wire.MAX_LR_FACTOR)]
NameOrNull = Annotated[str, Field(max_length=wire.MAX_NAME, pattern=NO_NUL)] | None


@with_config(
    extra="forbid",
    json_schema_extra={
        "anyOf": [
            {"required": ["nonfinite"], "properties": {"nonfinite": {"const": True}}},
            {"required": ["clip_fraction"], "properties": {"clip_fraction": {"type": "array"}}},
        ]
    },
)
class RevertIf(TypedDict, total=False):
    """When a version is taken back: judged over its first ``within`` steps."""

    within: Required[Annotated[int, Field(ge=1, le=wire.MAX_STEP)]]
    nonfinite: bool | None
    clip_fraction: Annotated[list[Share], Field(min_length=2, max_length=2)] | None


@with_config(
    json_schema_extra={
        "additionalProperties": {"type": "number"},
        "examples": [{"max_norm": 0.5, "reason": "loss spikes"}],
    }
)
class ControlChange(TypedDict, total=False):
    """Values of the strategy by their names (``max_norm``, ``clip_value``, …), and what is said of
    them; null is as if it were not there, but for a value."""

    max_norm: float
    match: NameOrNull
    stream: NameOrNull
    reason: Annotated[str, Field(max_length=1000, pattern=NO_NUL)] | None
    not_before_step: Annotated[int, Field(ge=0, le=wire.MAX_STEP)] | None
    ttl_steps: Annotated[int, Field(ge=1, le=wire.MAX_STEP)] | None
    revert_if: RevertIf | None
    lr_factor: Factor | None
    stop: bool | None
    roll_back_to: Annotated[int, Field(ge=0, le=wire.MAX_STEP)] | None


class ShownRevertIf(TypedDict):
    within: int
    nonfinite: bool
    clip_fraction: Annotated[list[float], Field(min_length=2, max_length=2)] | None


class Conditions(TypedDict):
    not_before_step: int | None
    ttl_steps: int | None
    revert_if: ShownRevertIf | None


class AppliedVersion(TypedDict):
    """What is in force; ``until`` is the first step without it."""

    version: int
    step: int | None
    at: At
    values: Values
    lr_factor: float
    stop: bool
    until: int | None


class May(TypedDict):
    lr_factor: bool
    stop: bool


class RuleOfRun(TypedDict):
    """One strategy of the script: of a pattern of names, of one of several optimizers, or neither."""

    match: str | None
    stream: str | None
    strategy: str
    threshold_name: str | None
    coded: Values
    desired: Values
    applied: Values
    limits: dict[str, Range]


class ControlDocument(Conditions):
    """The desired document, what of it is in force, and within which limits it may be changed."""

    version: int
    desired: dict[str, Any]
    lr_factor: float
    stop: bool
    status: StatusOfVersion
    why: str | None
    step: int | None
    stream: str | None
    applied: AppliedVersion
    limits: dict[str, Range]
    factor: float | None
    every_steps: int
    may: May
    read_only: bool
    why_read_only: str | None
    threshold_name: str | None
    rules: list[RuleOfRun]


class ValuesOfRule(TypedDict):
    match: str | None
    stream: str | None
    values: Values


class WholeDocument(TypedDict):
    rules: list[ValuesOfRule]
    lr_factor: float


class Fate(TypedDict):
    status: StatusOfVersion
    step: int | None
    at: At
    why: str | None


# ``from`` is no name for a field of a class.
_Change = TypedDict("_Change", {"from": Values, "to": Values})


class Version(Conditions, _Change):
    """One version: who asked for it, when and why, and what became of it."""

    version: int
    author: str
    at: At
    match: str | None
    stream: str | None
    stop: bool
    rolled_back_to: int | None
    document: WholeDocument
    reason: str
    status: StatusOfVersion
    step: int | None
    why: str | None
    events: list[Fate]


class History(TypedDict):
    versions: list[Version]


# -- access ---------------------------------------------------------------------------------------


@with_config(extra="forbid")
@with_config(extra="forbid")
class CodeOfLink(TypedDict):
    code: str


@with_config(extra="forbid")
class NameAndPassword(TypedDict):
    name: str
    password: str


Login = CodeOfLink | NameAndPassword
"""Either the code of a login link, or a name and its password."""


class Issuer(TypedDict):
    name: str


class Ways(TypedDict):
    """How one may come in besides by a link: whether there are passwords, and by whose word."""

    password: bool
    oidc: Issuer | None


class You(TypedDict):
    """Who is asking, and what they may do: ``role`` is the one that may do most, ``may`` what they
    may do in at least one project. ``password``: whether a new one takes the old one."""

    name: str
    role: Role
    may: list[Literal["view", "control", "admin", "ingest", "metrics"]]
    grants: dict[str, Role]
    kind: Literal["session", "token"]
    account: bool
    password: bool


class Server(TypedDict):
    version: str
    runs: dict[StatusOfRun, int]
    points_per_second: float
    user: You


@with_config(extra="forbid")
class NewLink(TypedDict, total=False):
    """``user``: the id of the account that comes in by it; null: this machine's administrator."""

    user: str | None


class LoginLink(TypedDict):
    """The code is good once, for ``expires_in`` seconds."""

    code: str
    expires_in: float


class Token(TypedDict):
    id: str
    name: str
    role: Role
    project: str
    owner: str | None
    created_at: At
    expires_at: At | None
    last_used_at: At | None
    revoked_at: At | None


class Tokens(TypedDict):
    tokens: list[Token]


@with_config(
    extra="forbid",
    json_schema_extra={
        "anyOf": [
            {"properties": {"role": {"enum": ["operator", "viewer", "ingest"]}}},
            {"properties": {"project": {"const": "*"}}},
        ]
    },
)
class NewToken(TypedDict, total=False):
    """``project``: ``*`` for all, as by default, and with roles that are of
    the whole server; ``expires_in``: in seconds; null for never."""

    role: Required[Role]
    project: Annotated[str, Field(min_length=1, max_length=200, pattern=NO_NUL)]
    name: Annotated[str, Field(max_length=200, pattern=NO_NUL)]
    expires_in: Annotated[float, Field(gt=0, le=1e10)] | None


class Secret(TypedDict):
    """A new token; it can be read here only."""

    id: str
    token: str


class User(TypedDict):
    """An account. ``password``, ``oidc``: whether it signs in so."""

    id: str
    name: str
    grants: Grants
    password: bool
    oidc: bool
    created_at: At
    last_login_at: At | None
    disabled_at: At | None


class Users(TypedDict):
    users: list[User]


Password = Annotated[str, Field(min_length=12, max_length=1000)]
SomeGrants = Annotated[
    Grants,
    Field(
        min_length=1,
        max_length=200,
        json_schema_extra={
            "properties": {"*": {"enum": ["viewer", "operator", "admin"]}},
            "additionalProperties": {"enum": ["viewer", "operator"]},
            "propertyNames": {"minLength": 1, "maxLength": 200, "pattern": NO_NUL},
        },
    ),
]
"""Who administers the server does so for all projects."""


@with_config(extra="forbid")
class NewUser(TypedDict, total=False):
    """Without a password the account is come into by a link."""

    name: Required[Annotated[str, Field(min_length=1, max_length=100)]]
    grants: Required[SomeGrants]
    password: Password | None


@with_config(extra="forbid")
class UserChange(TypedDict, total=False):
    """What is not named stays."""

    grants: SomeGrants
    disabled: bool | None
    password: Password


@with_config(extra="forbid")
class NewPassword(TypedDict, total=False):
    new: Required[Password]
    old: str | None


class Session(TypedDict):
    """Where one is signed in. ``agent``: what the browser calls itself."""

    id: str
    way: Literal["link", "password", "oidc"]
    agent: str
    created_at: At
    last_used_at: At
    expires_at: At
    current: bool


class Sessions(TypedDict):
    sessions: list[Session]


@with_config(extra="forbid")
class Prune(TypedDict, total=False):
    """What is to be kept; by default what the server is set to. ``keep_steps``: in seconds,
    ``quota``: in bytes of a project."""

    keep_steps: Annotated[float, Field(gt=0)] | None
    quota: Annotated[float, Field(gt=0)] | None
    dry_run: bool


class Pruned(TypedDict):
    runs_cut: int
    runs_removed: int
    bytes: int
    over_quota: dict[str, int]
