"""The audit: who did what, as a chain that nothing can be taken out of unseen.

The chain begins with what the control history says of the time before. From here on the database
itself refuses to change the audit, the versions and what became of them.
"""

import hashlib
import json

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

APPEND_ONLY = ("audit", "control_versions", "control_events")
BEGIN = "0" * 64


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("at", sa.Float(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.String(length=40), nullable=False),
        sa.Column("run_id", sa.String(length=36)),
        sa.Column("details", sa.Text(), nullable=False),
        sa.Column("previous", sa.String(length=64), nullable=False),
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit")),
        sa.UniqueConstraint("hash", name=op.f("uq_audit_hash")),
    )
    op.create_index(op.f("ix_audit_run_id"), "audit", ["run_id"])
    _write_history()
    if op.get_bind().dialect.name == "sqlite":
        for table in APPEND_ONLY:
            for action in ("UPDATE", "DELETE"):
                op.execute(
                    f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table} "
                    f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
                )


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for table in APPEND_ONLY:
            for action in ("update", "delete"):
                op.execute(f"DROP TRIGGER IF EXISTS {table}_no_{action}")
    op.drop_table("audit")


def _write_history() -> None:
    """A row for each version and each status there is, in the order of their time."""
    connection = op.get_bind()
    told = []
    versions = connection.execute(
        sa.text(
            "SELECT run_id, version, match, stream, before, after, author, reason, at "
            "FROM control_versions"
        )
    )
    for row in versions:
        details = {
            "version": row.version,
            "match": row.match,
            "stream": row.stream,
            "from": json.loads(row.before),
            "to": json.loads(row.after),
            "reason": row.reason,
        }
        told.append((row.at, 0, row.version, row.author, "control", row.run_id, details))
    statuses = connection.execute(
        sa.text("SELECT id, run_id, version, segment, status, step, why, at FROM control_events")
    )
    for row in statuses:
        details = {
            "version": row.version,
            "status": row.status,
            "step": row.step,
            "why": row.why,
        }
        actor = "server" if row.segment is None else "trainer"
        told.append((row.at, 1, row.id, actor, "control status", row.run_id, details))
    previous = BEGIN
    insert = sa.text(
        "INSERT INTO audit (id, at, actor, action, run_id, details, previous, hash) VALUES "
        "(:id, :at, :actor, :action, :run_id, :details, :previous, :hash)"
    )
    ordered = sorted(told, key=lambda entry: entry[:3])
    for number, (at, _, _, actor, action, run, details) in enumerate(ordered, 1):
        text = _canonical(details)
        found = _hash(previous, [number, at, actor, action, run, text])
        connection.execute(
            insert,
            {
                "id": number,
                "at": at,
                "actor": actor,
                "action": action,
                "run_id": run,
                "details": text,
                "previous": previous,
                "hash": found,
            },
        )
        previous = found


# As the server does it: a migration keeps what it does, whatever the server comes to do.
def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _hash(previous: str, row: list[object]) -> str:
    return hashlib.sha256((previous + _canonical(row)).encode()).hexdigest()
