"""The schema's history, and the two things one does with it: bring it up to date, ask where it is.

The URL reaches Alembic through ``config.attributes``: ``set_main_option`` fails on a ``%``.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine


def _config(url: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["url"] = url
    return config


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database at ``url`` (SQLAlchemy) to ``revision``; creates what is missing."""
    command.upgrade(_config(url), revision)


def downgrade(url: str, revision: str) -> None:
    command.downgrade(_config(url), revision)


def head() -> str:
    """The revision that this program needs."""
    found = ScriptDirectory.from_config(_config("")).get_current_head()
    assert found is not None
    return found


def current(url: str) -> str | None:
    """The revision that the database is at; None for an empty one."""
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            return MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()
