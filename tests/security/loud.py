"""``gradhelm`` with every log of every library at its most talkative, on stderr and in a file.

What ``GRADHELM_TEST_FAULT`` says is raised when somebody asks ``GET /api/v1/server`` while the file
``GRADHELM_TEST_WHEN`` exists: so that a traceback with a secret in it comes to be logged.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import uvicorn

from gradhelm_server import runs
from gradhelm_server.cli import main

TRACE = 5


def shout() -> None:
    logging.basicConfig(
        level=TRACE,
        handlers=[
            logging.StreamHandler(),
            logging.FileHandler(os.environ["GRADHELM_TEST_LOG"], encoding="utf-8"),
        ],
        force=True,
    )
    logging.getLogger("sqlalchemy.engine").setLevel(logging.DEBUG)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.asgi", "uvicorn.access"):
        logging.getLogger(name).setLevel(TRACE)
        logging.getLogger(name).propagate = True


configure = uvicorn.Config.configure_logging


def configure_and_shout(self: uvicorn.Config) -> None:
    configure(self)
    shout()


counts = runs.counts


def failing(*arguments: Any) -> Any:
    if Path(os.environ["GRADHELM_TEST_WHEN"]).exists():
        raise RuntimeError(os.environ["GRADHELM_TEST_FAULT"])
    return counts(*arguments)


if __name__ == "__main__":
    uvicorn.Config.configure_logging = configure_and_shout  # type: ignore[method-assign]
    runs.counts = failing
    shout()
    main()
