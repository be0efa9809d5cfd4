"""Certificates for tests: an authority of their own, which signs whatever a test needs."""

from __future__ import annotations

from pathlib import Path

import trustme

from gradhelm_server.settings import Certificate


def issued(
    by: trustme.CA, folder: Path, *names: str, readable: bool = False, **dates: object
) -> Certificate:
    """A certificate for ``names`` in files of ``folder``; ``dates``: not_before and not_after."""
    made = by.issue_cert(*names, **dates)  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    files = Certificate(folder / "certificate.pem", folder / "key.pem")
    files.certificate.write_bytes(b"".join(blob.bytes() for blob in made.cert_chain_pems))
    files.key.write_bytes(made.private_key_pem.bytes())
    files.key.chmod(0o644 if readable else 0o600)
    return files


def trusted(by: trustme.CA, folder: Path) -> Path:
    """The file that SSL_CERT_FILE should name."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "authority.pem"
    by.cert_pem.write_to_path(path)
    return path
