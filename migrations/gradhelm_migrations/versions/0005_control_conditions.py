"""Versions may be temporary, wait for a step, be on trial, scale learning rates and stop a run."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_NEW = ("ttl_steps", "not_before", "revert_if", "lr_factor", "stop", "rolled_back_to")


def upgrade() -> None:
    op.add_column("control_versions", sa.Column("ttl_steps", sa.BigInteger()))
    op.add_column("control_versions", sa.Column("not_before", sa.BigInteger()))
    op.add_column("control_versions", sa.Column("revert_if", sa.Text()))
    op.add_column("control_versions", sa.Column("lr_factor", sa.Float()))
    op.add_column("control_versions", sa.Column("stop", sa.Boolean()))
    op.add_column("control_versions", sa.Column("rolled_back_to", sa.BigInteger()))


def downgrade() -> None:
    # One by one: a table that is made anew would lose the triggers that keep it append-only.
    for name in reversed(_NEW):
        op.drop_column("control_versions", name)
