"""Events may say of which segment they are: a gap that a lost process left is its own alone."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("events", sa.Column("segment", sa.String(length=16)))


def downgrade() -> None:
    op.drop_column("events", "segment")
