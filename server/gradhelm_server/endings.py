"""How a command ends when it cannot do what it was asked."""

from __future__ import annotations

from gradhelm.errors import GradhelmError


class Usage(Exception):
    """The command was asked for in a way that cannot be done."""


class Failed(GradhelmError):
    """What was asked could not be done; the text is for the person who asked."""
