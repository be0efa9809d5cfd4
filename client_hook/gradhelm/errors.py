"""Everything that gradhelm raises on purpose.

GradhelmError
 +- WireError      a message that does not follow the protocol
 +- SettingsError  a setting (environment or command line) with a value that cannot be used
 +- SpoolError     records that cannot be kept on disk, or read again
 +- ServerError    a server that cannot be reached, or refuses what was asked
 +- RanksError     the ranks of a distributed job clip differently, or not all of them do

Bad arguments of the Python interface raise the standard ``ValueError`` or ``TypeError`` that names
the argument and what it accepts.
"""

from __future__ import annotations


class GradhelmError(Exception):
    """The root of the tree."""


class WireError(GradhelmError):
    """A message that does not follow the protocol; the text says what was expected."""


class SettingsError(GradhelmError):
    """A setting with a value that cannot be used; the text names it and what it accepts."""


class SpoolError(GradhelmError):
    """Records cannot be kept on disk, or read again; the text names the place and what is wrong."""


class ServerError(GradhelmError):
    """A server cannot be reached, or refuses what was asked; the text says why."""


class RanksError(GradhelmError, RuntimeError):
    """The ranks of a job that trains one model clip differently; the text says what differs.

    Raised at a step: copies of the model that drift apart in silence are worse than a stop.
    """
