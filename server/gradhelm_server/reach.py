"""How a server is reached: the address that is printed, and what there is to know about it."""

from __future__ import annotations

from typing import NamedTuple

from .clock import rfc3339
from .settings import LOOPBACK, ServerSettings, is_anywhere
from .tls import Shown, exposed


class Reach(NamedTuple):
    """``address`` is the server's own, ``public`` the one that people open (both without a slash at
    the end); ``words`` say how it is reached, ``warnings`` what is wrong with that."""

    address: str
    public: str
    words: tuple[str, ...]
    warnings: tuple[str, ...]


def reach(settings: ServerSettings, shown: Shown | None) -> Reach:
    """``shown`` is what the certificate says, where there is one."""
    names = _names(settings)
    scheme = "https" if settings.tls else "http"
    address = f"{scheme}://{_in_url(_own_name(settings, shown))}:{settings.port}"
    public = address
    words, warnings = [], []
    if shown is not None:
        until = (rfc3339(shown.until) or "")[:10]
        words.append(f"https by the certificate for {', '.join(shown.names)}, good until {until}")
        warnings += of_certificate(settings, shown)
    if settings.trusted_proxies and names:
        public = f"https://{_in_url(names[0])}"
        words.append(f"through the proxy {proxies(settings)}, which should publish it as {public}")
    elif settings.trusted_proxies:
        words.append(f"through the proxy {proxies(settings)}")
        warnings.append(
            "GRADHELM_ALLOWED_HOSTS does not say by which name people reach the proxy: what it "
            "passes on under another name than localhost is refused"
        )
    elif settings.local:
        words.append(
            "from this machine only; from elsewhere by an SSH tunnel: "
            f"ssh -L {settings.port}:127.0.0.1:{settings.port} …"
        )
        if names and not settings.tls:
            warnings.append(
                f"GRADHELM_ALLOWED_HOSTS names {', '.join(names)}; if that is a proxy with https "
                "before this server, GRADHELM_TRUSTED_PROXIES has to name its address"
            )
    if not settings.local and settings.insecure_http and not settings.tls:
        warnings.append(
            "plain http to the network (--insecure-http): tokens, cookies and passwords can be "
            "read on the way"
        )
    return Reach(address, public, tuple(words), tuple(warnings))


def of_certificate(settings: ServerSettings, shown: Shown) -> list[str]:
    """What is wrong with a certificate that can be used."""
    assert settings.tls is not None
    found = []
    names = _names(settings) or [_own_name(settings, shown)]
    missing = [name for name in names if not shown.covers(name)]
    if missing:
        found.append(
            f"the certificate is for {', '.join(shown.names)}, not for {', '.join(missing)}: "
            "browsers and jobs will not accept it there"
        )
    if exposed(settings.tls.key):
        found.append(
            f"everybody on this machine can read the TLS key: chmod 600 {settings.tls.key}"
        )
    return found


def proxies(settings: ServerSettings) -> str:
    return ", ".join(
        str(one.network_address) if one.num_addresses == 1 else str(one)
        for one in settings.trusted_proxies
    )


def _names(settings: ServerSettings) -> list[str]:
    """By which it is reached from elsewhere."""
    return sorted(settings.allowed_hosts - LOOPBACK - {settings.host})


def _own_name(settings: ServerSettings, shown: Shown | None) -> str:
    """By which the server can be opened without a proxy: one that it answers to, that leads to it,
    and that its certificate is for."""
    names = _names(settings)
    if settings.local:
        possible = [settings.host, "localhost", *names]
    elif is_anywhere(settings.host):
        possible = [*names, "localhost", "127.0.0.1"]
    else:
        possible = [*({settings.host} & settings.allowed_hosts), *names]
    return next((one for one in possible if shown is not None and shown.covers(one)), possible[0])


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
