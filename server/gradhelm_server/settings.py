"""What can be set about a server, in one table, read once and passed as a value."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

from gradhelm.errors import SettingsError
from gradhelm.settings import data_directory

VARIABLES: dict[str, tuple[str, str]] = {
    "GRADHELM_DATABASE_URL": (
        "SQLite file in the data directory",
        "where the server keeps everything (a SQLAlchemy URL)",
    ),
    "GRADHELM_ALLOWED_HOSTS": (
        "none",
        "host names, separated by commas, that the server answers to besides this machine's own; "
        "needed to bind another address than 127.0.0.1",
    ),
    "GRADHELM_TLS_CERT": (
        "none",
        "file of the certificate (PEM, with the chain) by which the server speaks https itself",
    ),
    "GRADHELM_TLS_KEY": (
        "none",
        "file of that certificate's private key (PEM, without a passphrase)",
    ),
    "GRADHELM_TRUSTED_PROXIES": (
        "none",
        "addresses and networks, separated by commas, of the reverse proxies whose "
        "X-Forwarded-Proto and X-Forwarded-For are believed",
    ),
    "GRADHELM_KEEP_STEPS": (
        "for ever",
        "how long the norms of every single step are kept after a run was last heard of, such as "
        "30d; then those of sixteen steps together",
    ),
    "GRADHELM_QUOTA": (
        "none",
        "what each project's runs may take on disk, such as 10GB; the oldest runs' norms of single "
        "steps go first",
    ),
    "GRADHELM_OIDC_ISSUER": (
        "none",
        "who else may say who somebody is (OpenID Connect): the issuer's address; with the extra "
        "`oidc`",
    ),
    "GRADHELM_OIDC_CLIENT_ID": ("none", "what this server is called there"),
    "GRADHELM_OIDC_CLIENT_SECRET": ("none", "by which the issuer knows this server"),
    "GRADHELM_OIDC_NAME": ("the issuer's host", "what the button on the login page calls it"),
    "GRADHELM_OIDC_GRANTS": (
        "nothing",
        "what somebody may do who comes in this way for the first time, such as "
        "viewer,operator@vision; by default only accounts that an admin made come in",
    ),
}
"""Environment variable -> (default, meaning). The README shows the same table."""

DEFAULT_PORT = 8642
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@dataclass(frozen=True)
class Policy:
    """What is kept. ``keep_steps``: seconds for which the norms of every step are, after a run was
    last heard of. ``quota``: bytes of each project. None: no limit."""

    keep_steps: float | None = None
    quota: int | None = None


@dataclass(frozen=True)
class OidcSettings:
    """``grants``: of accounts that are made at the first sign-in; None: none are made."""

    issuer: str
    client_id: str
    client_secret: str
    name: str
    grants: dict[str, str] | None = None


class Certificate(NamedTuple):
    """The files, both PEM, of a certificate with its chain and of its private key."""

    certificate: Path
    key: Path


Network = IPv4Network | IPv6Network


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Attributes: times are in seconds.

    tls: None: http. trusted_proxies: who is believed what it says about a request that it passes on.
    insecure_http: others may come over plain http, which was asked for in so many words.
    """

    home: Path
    database_url: str = field(repr=False)  # it may hold a password
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    allowed_hosts: frozenset[str] = frozenset()
    tls: Certificate | None = None
    trusted_proxies: tuple[Network, ...] = ()
    insecure_http: bool = False
    stale_after: float = 15.0
    failed_after: float = 600.0
    session_life: float = 30 * 86400.0
    policy: Policy = Policy()
    oidc: OidcSettings | None = None

    @property
    def local(self) -> bool:
        """Whether nobody but this machine can reach it, if not by a proxy or tunnel that ends here."""
        return _is_local(self.host)

    @classmethod
    def read(
        cls,
        environ: Mapping[str, str] = os.environ,
        *,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        database_url: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        insecure_http: bool = False,
    ) -> ServerSettings:
        """Raises SettingsError for values that cannot be used together."""
        home = data_directory(environ)
        url = database_url or environ.get("GRADHELM_DATABASE_URL")
        allowed = frozenset(map(_host_name, _listed("GRADHELM_ALLOWED_HOSTS", environ)))
        proxies = tuple(map(_network, _listed("GRADHELM_TRUSTED_PROXIES", environ)))
        tls = _certificate(
            tls_cert or environ.get("GRADHELM_TLS_CERT"), tls_key or environ.get("GRADHELM_TLS_KEY")
        )
        if not _is_local(host):
            if not (allowed if is_anywhere(host) else allowed - LOOPBACK):
                raise SettingsError(
                    f"--host {host} would open the server to the network; set "
                    "GRADHELM_ALLOWED_HOSTS to the names that people will reach it by (for "
                    "instance train.example.org)"
                )
            if not (tls or proxies or insecure_http):
                raise SettingsError(
                    f"--host {host} would send tokens, cookies and passwords over the network "
                    "unencrypted. Give --tls-cert and --tls-key; or set GRADHELM_TRUSTED_PROXIES "
                    "to the address of a reverse proxy that does https; or stay on 127.0.0.1 and "
                    f"come by an SSH tunnel (ssh -L {port}:127.0.0.1:{port} …). --insecure-http "
                    "does it all the same, where the network itself is protected"
                )
        if not 0 < port < 65536:
            raise SettingsError(f"--port {port}: expected 1 to 65535")
        return cls(
            home=home,
            database_url=url or f"sqlite:///{home / 'gradhelm.db'}",
            host=host,
            port=port,
            allowed_hosts=allowed | ({host} if _is_local(host) else frozenset()),
            tls=tls,
            trusted_proxies=proxies,
            insecure_http=insecure_http,
            policy=Policy(
                _asked("GRADHELM_KEEP_STEPS", environ, duration),
                _asked("GRADHELM_QUOTA", environ, size),
            ),
            oidc=_oidc(environ),
        )


def _oidc(environ: Mapping[str, str]) -> OidcSettings | None:
    """Raises SettingsError for an issuer that cannot be trusted, or half of what it takes."""
    issuer, client, secret, name = (
        environ.get(f"GRADHELM_OIDC_{part}", "").strip()
        for part in ("ISSUER", "CLIENT_ID", "CLIENT_SECRET", "NAME")
    )
    if not issuer:
        return None
    parsed = urlsplit(issuer)
    if parsed.scheme != "https" and parsed.hostname not in LOOPBACK:
        raise SettingsError(f"GRADHELM_OIDC_ISSUER is {issuer!r}: expected an https address")
    if not client or not secret:
        raise SettingsError(
            "GRADHELM_OIDC_ISSUER needs GRADHELM_OIDC_CLIENT_ID and GRADHELM_OIDC_CLIENT_SECRET too"
        )
    granted = _asked("GRADHELM_OIDC_GRANTS", environ, grants)
    return OidcSettings(issuer.rstrip("/"), client, secret, name or str(parsed.hostname), granted)


def is_anywhere(host: str) -> bool:
    """Whether it stands for all addresses of this machine."""
    try:
        return ip_address(host).is_unspecified
    except ValueError:
        return False


def _is_local(host: str) -> bool:
    try:
        return host in LOOPBACK or ip_address(host).is_loopback
    except ValueError:
        return False


def _listed(name: str, environ: Mapping[str, str]) -> list[str]:
    return [word.strip() for word in environ.get(name, "").split(",") if word.strip()]


def _host_name(text: str) -> str:
    """One that can be what a browser calls the server: anything else would never match."""
    name = text.lower().removeprefix("[").removesuffix("]")
    if not re.fullmatch(r"[a-z0-9_.-]+|[0-9a-f:]+", name):
        raise SettingsError(
            f"GRADHELM_ALLOWED_HOSTS has {text!r}; accepted: names and addresses such as "
            "train.example.org, without https://, a port or *"
        )
    return name


def _network(text: str) -> Network:
    try:
        found = ip_network(text)
    except ValueError:
        raise SettingsError(
            f"GRADHELM_TRUSTED_PROXIES has {text!r}; accepted: addresses and networks such as "
            "127.0.0.1 and 10.0.0.0/24 (no names, no *)"
        ) from None
    if found.prefixlen == 0:
        raise SettingsError(
            f"GRADHELM_TRUSTED_PROXIES has {text!r}: that is everybody, and everybody could say to "
            "have come by https, from any address"
        )
    return found


def _certificate(certificate: str | None, key: str | None) -> Certificate | None:
    if not certificate and not key:
        return None
    if not certificate or not key:
        missing, there = ("key", "certificate") if certificate else ("certificate", "key")
        raise SettingsError(
            f"a TLS {there} without its {missing}: --tls-cert and --tls-key (GRADHELM_TLS_CERT and "
            "GRADHELM_TLS_KEY) belong together; they may name the same file"
        )
    return Certificate(Path(certificate).expanduser(), Path(key).expanduser())


T = TypeVar("T")


def _asked(name: str, environ: Mapping[str, str], read: Callable[[str], T]) -> T | None:
    text = environ.get(name, "").strip()
    try:
        return read(text) if text else None
    except ValueError as error:
        raise SettingsError(f"{name} is {error}") from None


def grants(text: str) -> dict[str, str]:
    """Project -> role of a list such as viewer,operator@vision. Raises ValueError."""
    found: dict[str, str] = {}
    for part in text.split(","):
        role, at, project = part.strip().partition("@")
        if role not in ("viewer", "operator") or (at and not project) or (project or "*") in found:
            raise ValueError(f"{text!r}: expected roles such as viewer,operator@vision")
        found[project or "*"] = role
    return found


def duration(text: str) -> float:
    """Seconds of a time such as 30d, 12h or 45m. Raises ValueError."""
    match = re.fullmatch(r"(\d{1,6})([dhms])", text)
    if match is None or int(match[1]) == 0:
        raise ValueError(f"{text!r}: expected a time such as 30d, 12h or 45m")
    return int(match[1]) * {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}[match[2]]


def size(text: str) -> int:
    """Bytes of a size such as 500MB or 10GB. Raises ValueError."""
    match = re.fullmatch(r"(\d{1,6})([MGT])B", text)
    if match is None or int(match[1]) == 0:
        raise ValueError(f"{text!r}: expected a size such as 500MB, 10GB or 2TB")
    return int(match[1]) * {"M": 10**6, "G": 10**9, "T": 10**12}[match[2]]
