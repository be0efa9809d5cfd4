"""The server's own https: files that cannot be used are refused by name, and good ones are used."""

from __future__ import annotations

import asyncio
import datetime
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx
import pytest
import trustme
from certificates import issued, trusted
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from support import Program, free_port

from gradhelm.errors import SettingsError
from gradhelm_server import tls
from gradhelm_server.settings import Certificate

NAME = "train.example.org"
DAY = datetime.timedelta(days=1)
NOW = datetime.datetime.now(datetime.UTC)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def test_a_certificate_says_for_whom_and_until_when(authority, tmp_path) -> None:
    until = NOW + 30 * DAY
    shown = tls.look(issued(authority, tmp_path, NAME, "10.0.0.5", "::1", not_after=until))
    assert shown.covers(NAME)
    assert shown.covers("10.0.0.5")
    assert shown.covers("::1")
    assert not shown.covers("localhost")
    assert shown.until == pytest.approx(until.timestamp(), abs=1)


def spoil(files: Certificate, what: str, authority: trustme.CA, folder: Path) -> Certificate:
    """One way in which files are not what they should be."""
    other = issued(authority, folder / "other", NAME)
    match what:
        case "no certificate":
            files.certificate.unlink()
        case "no key":
            files.key.unlink()
        case "a folder":
            return files._replace(key=folder)
        case "garbage":
            files.certificate.write_text("garbage")
        case "garbage within":
            files.certificate.write_text(
                "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
            )
        case "the wrong way round":
            return Certificate(files.key, files.certificate)
        case "another's key":
            return files._replace(key=other.key)
        case "a key with a passphrase":
            key = load_pem_private_key(files.key.read_bytes(), None)
            files.key.write_bytes(
                key.private_bytes(
                    Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"hunter2")
                )
            )
        case "over":
            return issued(
                authority, folder / "o", NAME, not_before=NOW - 9 * DAY, not_after=NOW - DAY
            )
        case "not yet":
            return issued(
                authority, folder / "n", NAME, not_before=NOW + DAY, not_after=NOW + 2 * DAY
            )
        case "without names":
            return issued(authority, folder / "w", common_name=NAME)
    return files


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("no certificate", "TLS certificate .*certificate.pem cannot be read: No such file"),
        ("no key", "TLS key .*key.pem cannot be read: No such file"),
        ("a folder", "TLS key .* cannot be read: Is a directory"),
        ("garbage", "TLS certificate .*certificate.pem is none: a file in PEM"),
        ("garbage within", "certificate.pem and key .*key.pem cannot be used"),
        ("the wrong way round", "TLS certificate .*key.pem is none"),
        ("another's key", "TLS key .*key.pem is not that of the certificate .*certificate.pem"),
        ("a key with a passphrase", "key.pem is encrypted.*openssl pkey"),
        ("over", "accepted by nobody: certificate has expired"),
        ("not yet", "accepted by nobody: certificate is not yet valid"),
        ("without names", "accepted by nobody: it names no host"),
    ],
)
def test_what_cannot_be_used_is_named(authority, tmp_path, what: str, words: str) -> None:
    files = spoil(issued(authority, tmp_path, NAME), what, authority, tmp_path)
    with pytest.raises(SettingsError, match=words):
        tls.look(files)


def test_a_key_that_everybody_can_read_is_found(authority, tmp_path) -> None:
    assert tls.exposed(issued(authority, tmp_path, NAME, readable=True).key)
    assert not tls.exposed(issued(authority, tmp_path, NAME).key)


# -- a renewed certificate ------------------------------------------------------------------------


async def presented(port: int) -> bytes:
    """The certificate that a new connection is shown."""
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting)
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    await writer.wait_closed()
    assert isinstance(found, bytes)
    return found


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    while not await true():  # noqa: ASYNC110  (no event tells of a log line or a handshake)
        await asyncio.sleep(0.01)


def test_a_renewed_certificate_is_taken_up_and_a_bad_one_is_not(
    authority, tmp_path, caplog: pytest.LogCaptureFixture
) -> None:
    files = issued(authority, tmp_path, NAME)
    new, bad = (issued(authority, tmp_path / name, NAME) for name in ("new", "bad"))

    async def told(words: str) -> bool:
        return words in caplog.text

    async def changed(port: int, first: bytes) -> bool:
        return await presented(port) != first

    async def scene() -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*files)

        async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0, ssl=context)
        port = server.sockets[0].getsockname()[1]
        renewal = asyncio.create_task(tls.renew(context, files, every=0.01))
        first = await presented(port)

        async with asyncio.timeout(20):
            # The certificate comes before its key, as it would: for a moment they do not match.
            os.replace(bad.certificate, files.certificate)
            await until(lambda: told("goes on being used"))
            assert await presented(port) == first
            os.replace(new.certificate, files.certificate)
            os.replace(new.key, files.key)
            await until(lambda: changed(port, first))
        renewal.cancel()
        server.close()
        await server.wait_closed()

    asyncio.run(scene())


# -- a real server --------------------------------------------------------------------------------


class Secure(Program):
    """``gradhelm up`` with a certificate for localhost, and clients that know its authority."""

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"


@pytest.fixture(scope="module")
def secure(authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("secure")
    files = issued(authority, folder, "localhost", NAME)
    made = Secure(
        folder / "home",
        free_port(),
        variables={
            "SSL_CERT_FILE": str(trusted(authority, folder)),
            "GRADHELM_ALLOWED_HOSTS": NAME,
            "GRADHELM_TLS_CERT": str(files.certificate),
            "GRADHELM_TLS_KEY": str(files.key),
        },
    )
    made.link = made.start()  # type: ignore[attr-defined]
    yield made
    made.stop()


@pytest.fixture(scope="module")
def person(authority, secure: Secure, tmp_path_factory) -> Iterator[httpx.Client]:
    context = ssl.create_default_context(cafile=trusted(authority, tmp_path_factory.mktemp("ca")))
    with httpx.Client(base_url=secure.url, verify=context, headers={"Origin": secure.url}) as made:
        yield made


def test_the_address_and_the_login_link_are_https(secure: Secure) -> None:
    assert secure.link.startswith(f"{secure.url}/login#")  # type: ignore[attr-defined]
    printed = "".join(secure.lines)
    assert f"is up at {secure.url}\n" in printed
    assert f"https by the certificate for localhost, {NAME}, good until" in printed


def test_a_person_comes_in_by_https_alone(secure: Secure, person: httpx.Client) -> None:
    code = secure.link.partition("#")[2]  # type: ignore[attr-defined]
    answer = person.post("/login", json={"code": code})
    assert answer.status_code == 204
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-gradhelm=")
    assert "; Secure" in cookie
    assert person.get("/api/v1/runs").status_code == 200
    assert person.patch("/api/v1/runs/x", json={"note": ""}).status_code == 404
    plain = {"Origin": secure.url.replace("https:", "http:")}
    refused = person.patch("/api/v1/runs/x", json={"note": ""}, headers=plain)
    assert refused.json()["error"]["code"] == "bad_origin"
    with pytest.raises(httpx.TransportError):
        httpx.get(secure.url.replace("https:", "http:") + "/livez")


def test_a_name_is_pinned_to_https_and_localhost_is_not(secure: Secure, person) -> None:
    pinned = person.get("/livez", headers={"Host": f"{NAME}:{secure.port}"})
    assert pinned.headers["strict-transport-security"] == "max-age=31536000"
    assert "strict-transport-security" not in person.get("/livez").headers


def test_old_versions_of_tls_are_not_spoken(secure: Secure, authority, tmp_path) -> None:
    context = ssl.create_default_context(cafile=trusted(authority, tmp_path))
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        socket.create_connection(("127.0.0.1", secure.port)) as raw,
        pytest.raises(ssl.SSLError),
    ):
        context.wrap_socket(raw, server_hostname="localhost")


JOB = """
import sys, torch, gradhelm
model = torch.nn.Linear(3, 3)
with gradhelm.attach(model, max_norm=1.0, name="by tls", **eval(sys.argv[1])) as run:
    for _ in range(5):
        model(torch.ones(3)).sum().backward()
        run.clip()
"""


def job(program: Program, environment: dict[str, str], **options: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", JOB, repr(options)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_trainers_and_commands_come_by_https(secure: Secure) -> None:
    said = job(secure, secure.environment)
    assert "cannot reach" not in said
    (run,) = [run for run in secure.json("runs")["runs"] if run["name"] == "by tls"]
    assert run["steps"] == 5
    checks = {check["what"]: check["ok"] for check in secure.json("doctor")["checks"]}
    assert checks["the connection to it is encrypted, and its certificate is accepted"]
    assert secure.run("link").stdout.startswith(f"{secure.url}/login#")


@pytest.mark.parametrize("what", ["an unknown authority", "another name", "no TLS", "TLS"])
def test_whoever_is_not_the_server_hears_no_token(secure: Secure, what: str) -> None:
    """The client ends the handshake itself, before there is a request."""
    environment = dict(secure.environment)
    words = {
        "an unknown authority": "SSL_CERT_FILE names",
        "another name": "certificate is not valid for",
        "no TLS": "is it http://",
        "TLS": "is it https://",
    }[what]
    match what:
        case "an unknown authority":
            del environment["SSL_CERT_FILE"]
        case "another name":
            environment["GRADHELM_SERVER"] = f"https://127.0.0.1:{secure.port}"
        case "TLS":
            environment["GRADHELM_SERVER"] = f"http://127.0.0.1:{secure.port}"
    if what == "no TLS":
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            environment["GRADHELM_SERVER"] = f"https://localhost:{port}"
            said = by_both(secure, environment, listener)
    else:
        said = by_both(secure, environment)
    for one in said:
        assert words in one, one


def by_both(
    secure: Secure, environment: dict[str, str], plain: socket.socket | None = None
) -> tuple[str, str]:
    """What a training job and a command say; ``plain`` answers in http to whatever is said."""
    heard: list[bytes] = []

    def answer() -> None:
        assert plain is not None
        while True:
            try:
                peer, _ = plain.accept()
            except OSError:
                return
            with peer:
                heard.append(peer.recv(65536))
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    if plain is not None:
        threading.Thread(target=answer, daemon=True).start()
    trained = job(secure, environment)
    commanded = subprocess.run(
        [sys.executable, "-m", "gradhelm_server", "runs"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert commanded.returncode == 1
    assert not [data for data in heard if b"gh_" in data or b"Bearer" in data]
    return trained, commanded.stderr


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("no certificate", "cannot be read: No such file"),
        ("another's key", "is not that of the certificate"),
        ("over", "certificate has expired"),
        ("a key with a passphrase", "is encrypted"),
    ],
)
def test_up_refuses_bad_files_before_it_listens(authority, tmp_path, what, words) -> None:
    files = spoil(issued(authority, tmp_path, "localhost"), what, authority, tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:  # so that listening would fail as well
        port = taken.getsockname()[1]
        program = Program(tmp_path / "home", port)
        done = program.run(
            "up", "--no-browser", "--port", str(port),
            "--tls-cert", str(files.certificate), "--tls-key", str(files.key),
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    assert done.returncode == 1
    assert words in done.stderr
    assert "cannot listen" not in done.stderr
    assert "hunter2" not in done.stderr + done.stdout
    assert not program.home.exists()


def test_up_warns_of_a_key_that_everybody_can_read(authority, tmp_path) -> None:
    files = issued(authority, tmp_path, "localhost", readable=True)
    program = Secure(tmp_path / "home", free_port())
    program.start("up", "--tls-cert", str(files.certificate), "--tls-key", str(files.key))
    program.stop()
    assert f"chmod 600 {files.key}" in "".join(program.lines)


def test_doctor_tells_of_a_certificate_that_is_soon_over(authority, tmp_path) -> None:
    files = issued(authority, tmp_path, NAME, not_after=NOW + 5 * DAY, readable=True)
    program = Program(
        tmp_path / "home",
        free_port(),
        variables={
            "GRADHELM_TLS_CERT": str(files.certificate),
            "GRADHELM_TLS_KEY": str(files.key),
            "GRADHELM_ALLOWED_HOSTS": "other.example.org",
        },
    )
    told = program.run("doctor").stdout
    assert time.strftime("%Y-%m-%d", (NOW + 5 * DAY).timetuple()) in told
    assert "renew it" in told
    assert f"the certificate is for {NAME}, not for other.example.org" in told
    assert f"chmod 600 {files.key}" in told
