"""The page behind the one-time link: the only one that works without a session.

It is plain HTML with its own few files, so that what must be public stays small: ``/login`` and
``/login-assets/``. Reading the page does not use the code up; its script does, by a POST, so that
link previews cannot burn it. The code travels in the address's fragment and reaches no log.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse

from ..shell import ASSETS, CheckedFiles

HERE = Path(__file__).parent


def add_login(api: FastAPI) -> None:
    """``GET /login`` and the files it needs; ``POST /login`` is the server's."""

    async def page() -> FileResponse:
        return FileResponse(HERE / "login.html", headers={"Cache-Control": "no-store"})

    async def font() -> FileResponse:
        return FileResponse(ASSETS / "vendor" / "inter-latin-wght-normal.woff2")

    api.add_api_route("/login", page, include_in_schema=False)
    if (ASSETS / "vendor" / "stamp").is_file():
        api.add_api_route("/login-assets/inter.woff2", font, include_in_schema=False)
    api.mount("/login-assets", CheckedFiles(directory=HERE / "files"), name="login-assets")
