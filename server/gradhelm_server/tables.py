"""The tables. Each is keyed by ``run_id`` first, so that it can be partitioned by run.

Times are seconds since the epoch. Norms never stand in number columns where they could be NaN
(SQLite would turn that into NULL): they live in float32 blobs.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _run_id(*, primary_key: bool = False) -> Column[str]:
    return Column(
        "run_id", String(36), ForeignKey("runs.id"), primary_key=primary_key, nullable=False
    )


runs = Table(
    "runs",
    metadata,
    Column("id", String(36), primary_key=True),
    Column("name", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("owner", String(12)),  # the user whose token began it; NULL: an administrator's
    Column("config", Text, nullable=False),  # JSON object
    Column("tags", Text, nullable=False),  # JSON list
    Column("note", Text, nullable=False),
    Column("strategy", Text, nullable=False),
    Column("threshold_name", Text),
    Column("threshold", Float),  # in force, as last reported
    Column("coded", Text, nullable=False),  # JSON: wire.Coded, as in the training script
    Column("streams", Text, nullable=False),  # JSON: names of several optimizers, else []
    Column("limits", Text, nullable=False),  # JSON: wire.Limits
    Column("host", Text, nullable=False),
    Column("hook", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("last_heard_at", Float, nullable=False),
    Column("ended", Text),  # finished, failed or stopped, as the trainer said; else NULL
    Column("ended_at", Float),
    Column("ended_why", Text, nullable=False),
    Column("deleted_at", Float),
    Column("first_step", BigInteger),
    Column("last_step", BigInteger),
    Column("steps", BigInteger, nullable=False),
    Column("clipped", BigInteger, nullable=False),
    Column("nonfinite", BigInteger, nullable=False),
    Column("skipped", BigInteger, nullable=False),
    Column("recent", Text, nullable=False),  # JSON: the newest steps in figures
    Column("sparkline", LargeBinary, nullable=False),  # float32: the newest global norms, thinned
    Column("stats", Text, nullable=False),  # JSON: what the hook says of its own cost
    Index("ix_runs_created_at_id", "created_at", "id"),
    Index("ix_runs_project", "project"),
)

# One row for each stream of a segment: their steps are counted apart. The run's first stream has
# the name "", and its row the segment's high-water mark.
segments = Table(
    "segments",
    metadata,
    _run_id(primary_key=True),
    Column("segment", String(16), primary_key=True),
    Column("stream", String(200), primary_key=True),
    Column("ordinal", Integer, nullable=False),
    Column("high_water", BigInteger, nullable=False),
    Column("first_step", BigInteger),
    Column("last_step", BigInteger),
    # Of steps before this one norms are kept as buckets only.
    Column("kept_since", BigInteger, nullable=False, server_default="0"),
    Column("created_at", Float, nullable=False),
    UniqueConstraint("run_id", "ordinal", "stream"),
)

columns = Table(
    "columns",
    metadata,
    _run_id(primary_key=True),
    Column("idx", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("kind", String(8), nullable=False),
    Column("shape", Text, nullable=False),  # JSON list
    Column("dtype", Text, nullable=False),
    UniqueConstraint("run_id", "name"),
)

layouts = Table(
    "layouts",
    metadata,
    _run_id(primary_key=True),
    Column("layout", Integer, primary_key=True),
    Column("columns", LargeBinary, nullable=False),  # int32: which run columns, in which order
    Column("blocks", LargeBinary, nullable=False),  # int32: where each block of them begins
    Column("stream", String(200), nullable=False),
    UniqueConstraint("run_id", "columns"),
)

# The inbox: what trainers sent, as it came, until it is compacted into tiles.
frames = Table(
    "frames",
    metadata,
    Column("id", Integer, primary_key=True),
    _run_id(),
    Column("segment", String(16), nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("layout", Integer, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("first_step", BigInteger, nullable=False),
    Column("last_step", BigInteger, nullable=False),
    Column("steps", Integer, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    UniqueConstraint("run_id", "segment", "seq"),
)

# Level 0: steps first..last of a block of columns, each column by itself; block -1 holds the steps,
# times and versions of all of them. Levels above: buckets first..last, see rollup.py.
tiles = Table(
    "tiles",
    metadata,
    Column("id", Integer, primary_key=True),
    _run_id(),
    Column("segment", String(16), nullable=False),
    Column("layout", Integer, nullable=False),
    Column("level", Integer, nullable=False),
    Column("block", Integer, nullable=False),
    Column("first", BigInteger, nullable=False),
    Column("last", BigInteger, nullable=False),
    Column("size", Integer, nullable=False),  # steps, or buckets
    Column("payload", LargeBinary, nullable=False),
    Index(None, "run_id", "segment", "layout", "level", "block", "first"),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    _run_id(),
    Column("kind", String(16), nullable=False),
    Column("stream", Text),  # whose steps these are; NULL for the run's first
    Column("segment", String(16)),  # whose rows are missing, of a gap
    Column("first_step", BigInteger),
    Column("last_step", BigInteger),
    Column("count", BigInteger, nullable=False),
    Column("peak_step", BigInteger),
    Column("peak_norm", Float),
    Column("threshold", Float),
    Column("parameter", Text),
    Column("text", Text, nullable=False),
    Column("at", Float, nullable=False),
    Index(None, "run_id", "id"),
    Index(None, "run_id", "kind", "id"),
)

control_versions = Table(
    "control_versions",
    metadata,
    _run_id(primary_key=True),
    Column("version", BigInteger, primary_key=True),
    Column("rules", Text, nullable=False),  # JSON: the whole desired document
    Column("match", Text),
    Column("stream", Text),
    Column("before", Text, nullable=False),  # JSON: the rule's values it replaces
    Column("after", Text, nullable=False),
    Column("author", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("at", Float, nullable=False),
    Column("idempotency_key", Text),
    Column("ttl_steps", BigInteger),
    Column("not_before", BigInteger),
    Column("revert_if", Text),  # JSON: wire.RevertIf
    Column("lr_factor", Float),
    Column("stop", Boolean),
    Column("rolled_back_to", BigInteger),  # whose document this is once more
    UniqueConstraint("run_id", "idempotency_key"),
)

control_events = Table(
    "control_events",
    metadata,
    Column("id", Integer, primary_key=True),
    _run_id(),
    Column("version", BigInteger, nullable=False),
    Column("segment", String(16)),  # whose trainer said so; NULL for the server's own
    Column("status", String(16), nullable=False),
    Column("step", BigInteger),
    Column("stream", Text),  # whose step that is
    Column("why", Text),
    Column("at", Float, nullable=False),
    Index(None, "run_id", "version"),
)

# Each entry is sealed with the hash of the one before, see audit.py.
audit = Table(
    "audit",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("at", Float, nullable=False),
    Column("actor", Text, nullable=False),
    Column("action", String(40), nullable=False),
    Column("run_id", String(36), index=True),
    Column("details", Text, nullable=False),  # JSON
    Column("previous", String(64), nullable=False),
    Column("hash", String(64), nullable=False, unique=True),
)

users = Table(
    "users",
    metadata,
    Column("id", String(12), primary_key=True),
    Column("name", Text, nullable=False),
    Column("folded", Text, nullable=False, unique=True),  # the name without its letters' case
    Column("password", Text),  # argon2id; NULL: comes in by a link, or from elsewhere
    Column("oidc", Text, unique=True),  # issuer and subject, where the account comes from there
    Column("created_at", Float, nullable=False),
    Column("last_login_at", Float),
    Column("disabled_at", Float),
)

grants = Table(
    "grants",
    metadata,
    Column("user_id", String(12), ForeignKey("users.id"), primary_key=True),
    Column("project", Text, primary_key=True),  # "*": all of them
    Column("role", String(16), nullable=False),
)

# No foreign keys to users from here on: what they made outlives them.
tokens = Table(
    "tokens",
    metadata,
    Column("id", String(12), primary_key=True),
    Column("hash", String(64), nullable=False, unique=True),
    Column("name", Text, nullable=False),
    Column("role", String(16), nullable=False),
    Column("project", Text, nullable=False, server_default="*"),
    Column("owner", String(12), index=True),  # the user that made it; NULL: an administrator's
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
    Column("last_used_at", Float),
    Column("revoked_at", Float),
)

sessions = Table(
    "sessions",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("id", String(16), nullable=False, unique=True),  # the hash's beginning: to be shown
    Column("user_id", String(12), index=True),  # NULL: this machine's administrator
    Column("way", String(8), nullable=False),  # link, password or oidc
    Column("agent", Text, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("last_used_at", Float, nullable=False),
    Column("expires_at", Float, nullable=False),
)
