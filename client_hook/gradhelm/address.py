"""The address of a server: what it may be, whether what is sent there is protected, and why nobody
was reached at it.

Law: no token leaves for another machine over a connection that can be read on the way, unless the
person whose token it is has said so (``GRADHELM_INSECURE=1``).
"""

from __future__ import annotations

import ssl
from http.client import HTTPException
from typing import Final
from urllib.parse import urlsplit

from websockets.exceptions import InvalidMessage

from . import redact
from .settings import is_loopback

_UNKNOWN: Final = (18, 19, 20, 21)
"""X509_V_ERR_…: the certificate was signed by nobody who is known here."""
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")


def checked(text: str) -> str:
    """The URL of a server, without a slash at its end. Raises ValueError, which repeats no secret."""
    shown = redact.harmless(text)
    try:
        parts = urlsplit(text)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits or not text.isprintable() or " " in text:
        raise ValueError(f"server is {shown!r}; accepted: an http or https URL with a host")
    if "@" in parts.netloc:
        raise ValueError(
            f"server is {shown!r}; a URL with a user name or password is not accepted: it would "
            "come to be read in logs and lists of processes. A token goes into GRADHELM_TOKEN"
        )
    if "?" in text or "#" in text:
        raise ValueError(
            f"server is {shown!r}; accepted: a URL without a query (?) or fragment (#)"
        )
    return text.rstrip("/")


def protected(url: str, *, insecure: bool) -> None:
    """Raises ValueError when what is sent to ``url`` could be read on the way, unless ``insecure``."""
    if insecure or is_loopback(url) or urlsplit(url).scheme == "https":
        return
    raise ValueError(
        f"server is {url!r}: over http, the token and all that is reported could be read and changed "
        "on the way to another machine. Use https://…, or an SSH tunnel and http://127.0.0.1:…; "
        "GRADHELM_INSECURE=1 accepts it where the network itself is protected"
    )


def unreached(error: BaseException) -> str:
    """Why a server was not reached, in words: without secrets, and with the way out if we know it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"its certificate is not accepted: {redact.harmless(error.verify_message)}"
        if error.verify_code in _UNKNOWN:
            why += "; SSL_CERT_FILE names the file of an authority of your own"
        return why
    if isinstance(error, ssl.SSLError) and error.reason in _NO_TLS:
        return "it does not speak TLS there; is it http://…?"
    if isinstance(error, HTTPException | InvalidMessage):
        return "it does not answer in HTTP there; is it https://…?"
    return redact.harmless(error) or type(error).__name__
