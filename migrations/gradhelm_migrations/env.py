"""What Alembic runs: one connection, one transaction for all the revisions that are missing."""

from alembic import context
from sqlalchemy import create_engine

engine = create_engine(context.config.attributes["url"])
try:
    with engine.begin() as connection:
        context.configure(connection=connection, render_as_batch=True)
        with context.begin_transaction():
            context.run_migrations()
finally:
    engine.dispose()
