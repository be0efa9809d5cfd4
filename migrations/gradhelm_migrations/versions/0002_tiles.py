"""Tiles: frames become an inbox, and what is compacted out of it is kept by columns.

The rollups that there were are built anew with the tiles: frames hold all that they were made of.
Frames are kept as they came, step by step; they stood column by column.
"""

from array import array
from itertools import pairwise

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

BLOCK = 8


def upgrade() -> None:
    op.drop_table("rollups")
    op.drop_index(op.f("ix_frames_run_id_segment_layout_first_step"), "frames")
    op.drop_index(op.f("ix_frames_run_id_segment_layout_last_step"), "frames")
    op.create_table(
        "tiles",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("segment", sa.String(length=16), nullable=False),
        sa.Column("layout", sa.Integer(), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("block", sa.Integer(), nullable=False),
        sa.Column("first", sa.BigInteger(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_tiles_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tiles")),
    )
    op.create_index(
        op.f("ix_tiles_run_id_segment_layout_level_block_first"),
        "tiles",
        ["run_id", "segment", "layout", "level", "block", "first"],
    )
    with op.batch_alter_table("segments") as batch:
        batch.add_column(
            sa.Column("kept_since", sa.BigInteger(), nullable=False, server_default="0")
        )
    with op.batch_alter_table("layouts") as batch:
        batch.add_column(
            sa.Column("blocks", sa.LargeBinary(), nullable=False, server_default=sa.text("''"))
        )
    connection = op.get_bind()
    layouts = sa.table(
        "layouts",
        sa.column("run_id"),
        sa.column("layout"),
        sa.column("columns"),
        sa.column("blocks"),
    )
    columns = sa.table("columns", sa.column("run_id"), sa.column("idx"), sa.column("kind"))
    held = sa.select(layouts.c.run_id, layouts.c.layout, layouts.c.columns)
    for row in connection.execute(held).all():
        found = connection.execute(
            sa.select(columns.c.idx, columns.c.kind).where(columns.c.run_id == row.run_id)
        )
        kind = {idx: kind for idx, kind in found}
        starts = array("i", _starts([kind[index] for index in array("i", row.columns)]))
        connection.execute(
            sa.update(layouts)
            .where(layouts.c.run_id == row.run_id, layouts.c.layout == row.layout)
            .values(blocks=starts.tobytes())
        )
    _turn(connection, by_steps=True)
    with op.batch_alter_table("layouts") as batch:
        batch.alter_column("blocks", server_default=None)


def _turn(connection: sa.Connection, *, by_steps: bool) -> None:
    """Turn the values of all frames, from columns to steps or back."""
    frames = sa.table("frames", sa.column("id"), sa.column("steps"), sa.column("payload"))
    ids = connection.scalars(sa.select(frames.c.id)).all()
    for number in ids:
        count, payload = connection.execute(
            sa.select(frames.c.steps, frames.c.payload).where(frames.c.id == number)
        ).one()
        values = array("I", payload[16 * count :])
        parts = count if by_steps else len(values) // count
        turned = [values[part::parts].tobytes() for part in range(parts)]
        payload = b"".join((payload[: 16 * count], *turned))
        connection.execute(sa.update(frames).where(frames.c.id == number).values(payload=payload))


def _starts(kinds: list[str]) -> list[int]:
    """As the service divides a layout: scalars alone, others by eight of a kind."""
    starts = [0]
    for place, (before, kind) in enumerate(pairwise(kinds), 1):
        full = place - starts[-1] == BLOCK
        if full or kind != before or kind in ("scalar", "log"):
            starts.append(place)
    return starts


def downgrade() -> None:
    """Only without tiles: they cannot become frames again."""
    tiles = op.get_bind().scalar(sa.text("SELECT count(*) FROM tiles"))
    if tiles:
        raise RuntimeError("the database has tiles, which the older schema cannot hold")
    op.drop_index(op.f("ix_tiles_run_id_segment_layout_level_block_first"), "tiles")
    op.drop_table("tiles")
    _turn(op.get_bind(), by_steps=False)
    with op.batch_alter_table("layouts") as batch:
        batch.drop_column("blocks")
    with op.batch_alter_table("segments") as batch:
        batch.drop_column("kept_since")
    for name in ("first_step", "last_step"):
        op.create_index(
            op.f(f"ix_frames_run_id_segment_layout_{name}"),
            "frames",
            ["run_id", "segment", "layout", name],
        )
    op.create_table(
        "rollups",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(length=36), nullable=False),
        sa.Column("segment", sa.String(length=16), nullable=False),
        sa.Column("layout", sa.Integer(), nullable=False),
        sa.Column("level", sa.Integer(), nullable=False),
        sa.Column("first_bucket", sa.BigInteger(), nullable=False),
        sa.Column("last_bucket", sa.BigInteger(), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_rollups_run_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollups")),
        sa.UniqueConstraint(
            "run_id",
            "segment",
            "layout",
            "level",
            "first_bucket",
            name=op.f("uq_rollups_run_id_segment_layout_level_first_bucket"),
        ),
    )
