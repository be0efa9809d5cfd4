"""People with grants in projects; tokens of one project and with an owner. Sessions begin anew."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "users",
        sa.Column("id", sa.String(length=12), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("folded", sa.Text(), nullable=False),
        sa.Column("password", sa.Text()),
        sa.Column("oidc", sa.Text()),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("last_login_at", sa.Float()),
        sa.Column("disabled_at", sa.Float()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("folded", name=op.f("uq_users_folded")),
        sa.UniqueConstraint("oidc", name=op.f("uq_users_oidc")),
    )
    op.create_table(
        "grants",
        sa.Column("user_id", sa.String(length=12), nullable=False),
        sa.Column("project", sa.Text(), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.ForeignKeyConstraint(["user_id"], ["users.id"], name=op.f("fk_grants_user_id")),
        sa.PrimaryKeyConstraint("user_id", "project", name=op.f("pk_grants")),
    )
    op.add_column("runs", sa.Column("owner", sa.String(length=12)))
    op.add_column("tokens", sa.Column("project", sa.Text(), nullable=False, server_default="*"))
    op.add_column("tokens", sa.Column("owner", sa.String(length=12)))
    op.create_index(op.f("ix_tokens_owner"), "tokens", ["owner"])
    op.drop_table("sessions")
    op.create_table(
        "sessions",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("id", sa.String(length=16), nullable=False),
        sa.Column("user_id", sa.String(length=12)),
        sa.Column("way", sa.String(length=8), nullable=False),
        sa.Column("agent", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("last_used_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_sessions")),
        sa.UniqueConstraint("id", name=op.f("uq_sessions_id")),
    )
    op.create_index(op.f("ix_sessions_user_id"), "sessions", ["user_id"])


def downgrade() -> None:
    op.drop_table("sessions")
    op.create_table(
        "sessions",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("user", sa.Text(), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.Float(), nullable=False),
        sa.Column("expires_at", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_sessions")),
    )
    op.drop_index(op.f("ix_tokens_owner"), table_name="tokens")
    # A token of one project, or a person's, would be one of all projects to what comes before.
    op.execute(
        "UPDATE tokens SET revoked_at = created_at "
        "WHERE revoked_at IS NULL AND (project <> '*' OR owner IS NOT NULL OR role = 'metrics')"
    )
    op.drop_column("tokens", "owner")
    op.drop_column("tokens", "project")
    op.drop_column("runs", "owner")
    op.drop_table("grants")
    op.drop_table("users")
