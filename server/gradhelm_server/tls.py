"""The server's certificate: looked at before it is used, and taken anew when its files change.

Law: what cannot be used is refused before anything listens, in words that say which file it is and
what is wrong with it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Callable
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, NamedTuple

from gradhelm.errors import SettingsError

from .clock import rfc3339
from .settings import Certificate

log = logging.getLogger(__name__)

LOOK: Final = 60.0
"""Seconds between two looks at the files."""
_MARKS: Final = {
    "certificate": (b"-----BEGIN CERTIFICATE-----",),
    "key": (b"PRIVATE KEY-----",),
}


class Shown(NamedTuple):
    """What a certificate says: for which names and addresses it is, and until when (seconds)."""

    names: tuple[str, ...]
    until: float

    def covers(self, host: str) -> bool:
        """By the rules of a browser: `*.example.org` stands for one more label."""
        return any(
            _same(name, host) or (name.startswith("*.") and name[2:] == host.partition(".")[2])
            for name in self.names
        )


def look(files: Certificate) -> Shown:
    """What the certificate says. Raises SettingsError where it cannot be used, or not any more."""
    for what, path in zip(_MARKS, files, strict=True):
        try:
            data = path.read_bytes()
        except OSError as error:
            raise SettingsError(f"the TLS {what} {path} cannot be read: {error.strerror}") from None
        if not any(mark in data for mark in _MARKS[what]):
            raise SettingsError(f"the TLS {what} {path} is none: a file in PEM format is expected")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(*files, password=_no_passphrase(files.key))
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise SettingsError(
                f"the TLS key {files.key} is not that of the certificate {files.certificate}"
            ) from None
        raise SettingsError(
            f"the TLS certificate {files.certificate} and key {files.key} cannot be used: "
            f"{error.reason or error}"
        ) from None
    return _handshake(context, files.certificate)


def _no_passphrase(key: Path) -> Callable[[], str]:
    """Nobody is there to type one when a server is started again."""

    def refuse() -> str:
        raise SettingsError(
            f"the TLS key {key} is encrypted; a server needs one without a passphrase: "
            f"openssl pkey -in {key} -out …"
        )

    return refuse


def _handshake(context: ssl.SSLContext, certificate: Path) -> Shown:
    """What a client sees that trusts this very certificate: by shaking hands with oneself."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(certificate)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(back, there)
    theirs = context.wrap_bio(there, back, server_side=True)
    try:
        for side in (ours, theirs, ours):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    except ssl.SSLCertVerificationError as error:
        raise SettingsError(
            f"the TLS certificate {certificate} would be accepted by nobody: {error.verify_message}"
        ) from None
    found: Any = ours.getpeercert()
    names = tuple(value.lower() for _, value in found.get("subjectAltName", ()))
    if not names:
        raise SettingsError(
            f"the TLS certificate {certificate} would be accepted by nobody: it names no host "
            "(subjectAltName)"
        )
    return Shown(names, ssl.cert_time_to_seconds(found["notAfter"]))


def _same(name: str, host: str) -> bool:
    if name == host:
        return True
    try:
        return ip_address(name) == ip_address(host)
    except ValueError:
        return False


def exposed(key: Path) -> bool:
    """Whether every user of this machine can read a key; a group of its own is customary."""
    return os.name == "posix" and bool(key.stat().st_mode & 0o007)


async def renew(live: ssl.SSLContext, files: Certificate, every: float = LOOK) -> None:
    """Take what the files hold into use as soon as they change, for all connections from then on.

    Certificates live for weeks now, and servers longer. Runs until it is cancelled.
    """
    used = tried = _stamps(files)
    while True:
        await asyncio.sleep(every)
        now = _stamps(files)
        if now in (used, tried):
            continue
        tried = now
        try:
            until = look(files).until
            live.load_cert_chain(*files)
        except (SettingsError, OSError) as error:
            log.warning("%s; the certificate that was read before goes on being used", error)
            continue
        used = now
        log.info("the TLS certificate was read anew; it is good until %s", rfc3339(until))


def _stamps(files: Certificate) -> tuple[tuple[int, int, int] | None, ...]:
    """What changes when a file is written or replaced."""
    found: list[tuple[int, int, int] | None] = []
    for path in files:
        try:
            stat = path.stat()
        except OSError:
            found.append(None)
        else:
            found.append((stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return tuple(found)
