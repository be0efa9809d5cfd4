"""Redaction: what must not come out in a log, an error or a traceback, and what must not get in.

Two laws. *No secret comes out*: what looks like one of gradhelm's tokens, a password in a URL, a
cookie or a login code is replaced before text leaves the process, whoever wrote it (drivers,
websockets and uvicorn put URLs and headers into theirs). *Nothing gets in by a name*: what strangers
have named cannot begin a line of a log, move a terminal's cursor, or turn the reading direction.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
from types import TracebackType
from typing import Any, Final

GONE: Final = "…"
"""What stands where a secret was."""

_HEADER: Final = r"\b(?:proxy-)?authorization|\b(?:set-)?cookie"
_WORD: Final = r"\b\w*(?:passwor[dt]|passwd|passphrase|secret)|\b(?:pwd|(?:id|access)_token)"
_PATTERNS: Final = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), by)
    for pattern, by in (
        # A private key in PEM.
        (r"(-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----).*?(?:-----END|\Z)", rf"\1{GONE}"),
        # Our tokens, our cookies, and the code behind a login link.
        (r"\bgh_[\w-]{20,}", f"gh_{GONE}"),
        (r"((?:__Host-gradhelm|\bgradhelm-)[\w-]{0,20}=)[^\s;,'\"]+", rf"\1{GONE}"),
        (r"(/login#)[\w%-]+", rf"\1{GONE}"),
        # Headers that hold credentials, as `Cookie: a=b` and as (b'cookie', b'a=b').
        (rf"((?:{_HEADER})['\"]?\s*[:,=]\s*b?(['\"]))(?:(?!\2).)*", rf"\1{GONE}"),
        (rf"((?:{_HEADER})\s*:\s*)(?!b?['\"])[^\r\n]+", rf"\1{GONE}"),
        (r"\b(bearer|basic)\s+[\w~+/.=-]{8,}", rf"\1 {GONE}"),
        # user:password@host and user@host in a URL. In http://host:8642/a@b nobody is either, but
        # a database's password may well begin like a port.
        (r"((?:http|ws)s?://)[^\s/@'\"]{0,200}:(?!\d+(?:/|\s|$))[^\s'\"]{0,500}@", rf"\1{GONE}@"),
        (r"(?<!http)(?<!https)(://)[^\s/@'\"]{0,200}:[^\s'\"]{0,500}@", rf"\1{GONE}@"),
        (r"(://)[^\s/@'\"]{1,200}@", rf"\1{GONE}@"),
        # password=…, 'password': '…', and what a query calls so.
        (rf"((?:{_WORD})['\"]?\s*[=:]\s*b?(['\"]))(?:(?!\2).)*", rf"\1{GONE}"),
        (rf"((?:{_WORD})=)(?!b?['\"])[^\s&;,)]+", rf"\1{GONE}"),
        (r"([?&'\"](?:token|code|key|state)=)[^\s&#'\"]+", rf"\1{GONE}"),
        (r"(['\"](?:token|code)['\"]\s*:\s*['\"])[\w-]{20,}", rf"\1{GONE}"),
    )
)


def secrets(text: str) -> str:
    """``text`` without what looks like a secret."""
    for pattern, by in _PATTERNS:
        text = pattern.sub(by, text)
    return text


def line(text: str) -> str:
    """``text`` as part of one line: everything that is not printable, as Python escapes it."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def harmless(text: object) -> str:
    """Both: of an error, say, whose text somebody else has written."""
    return line(secrets(str(text)))


def told(error: BaseException | None) -> str:
    """A traceback; each of its lines is indented, so that none passes for the beginning of another
    entry of the log."""
    text = secrets("".join(traceback.format_exception(error))) if error is not None else ""
    return "\n".join(f"  {line(one)}" for one in text.splitlines())


class Filter(logging.Filter):
    """For one logger: of records that it takes, nothing secret or harmful goes on."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = harmless(record.getMessage()), ()
        if record.exc_info:
            record.exc_text = told(record.exc_info[1])
        return True


class _Record(logging.LogRecord):
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        if self.exc_info and self.exc_info[1] is not None:
            self.exc_text = told(self.exc_info[1])

    def getMessage(self) -> str:
        return harmless(super().getMessage())


def everywhere() -> None:
    """All logs and last words of this process. For processes of our own: it is no guest's business
    how its host logs."""

    def last_words(
        _: type[BaseException], error: BaseException | None, __: TracebackType | None
    ) -> None:
        print(told(error), file=sys.stderr, flush=True)  # noqa: T201

    def of_thread(last: threading.ExceptHookArgs) -> None:
        print(told(last.exc_value), file=sys.stderr, flush=True)  # noqa: T201

    logging.setLogRecordFactory(_Record)
    sys.excepthook = last_words
    threading.excepthook = of_thread
