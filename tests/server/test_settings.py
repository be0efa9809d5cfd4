"""What opens a server to others is refused unless it is protected, and errors name the remedies."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from gradhelm.errors import SettingsError
from gradhelm_server.reach import reach
from gradhelm_server.settings import Certificate, ServerSettings
from gradhelm_server.tls import Shown

NAMED = {"GRADHELM_ALLOWED_HOSTS": "train.example.org, 10.0.0.5, [fd00::5]"}
TLS = {"GRADHELM_TLS_CERT": "/c.pem", "GRADHELM_TLS_KEY": "/k.pem"}
PROXIED = {"GRADHELM_TRUSTED_PROXIES": "10.0.0.2, 10.1.0.0/16, fd00::2"}
OPEN = ["0.0.0.0", "::", "10.0.0.5", "train.example.org", "127.0.0.1.evil.example"]


@pytest.mark.parametrize("host", OPEN)
def test_another_address_needs_names(host: str) -> None:
    with pytest.raises(SettingsError, match="GRADHELM_ALLOWED_HOSTS"):
        ServerSettings.read({**TLS, **PROXIED}, host=host, insecure_http=True)


@pytest.mark.parametrize("host", OPEN)
def test_another_address_needs_https_or_a_proxy_or_a_word_for_it(host: str) -> None:
    with pytest.raises(SettingsError, match="unencrypted") as refused:
        ServerSettings.read(NAMED, host=host)
    for remedy in ("--tls-cert", "GRADHELM_TRUSTED_PROXIES", "ssh -L 8642:", "--insecure-http"):
        assert remedy in str(refused.value)
    assert ServerSettings.read({**NAMED, **TLS}, host=host).tls
    assert ServerSettings.read({**NAMED, **PROXIED}, host=host).trusted_proxies
    assert ServerSettings.read(NAMED, host=host, insecure_http=True).insecure_http


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.0.0.2"])
def test_this_machine_needs_nothing_and_is_answered(host: str) -> None:
    found = ServerSettings.read({}, host=host)
    assert found.local
    assert host in found.allowed_hosts


def test_an_address_that_is_only_ever_called_localhost_cannot_be_reached() -> None:
    localhost = {"GRADHELM_ALLOWED_HOSTS": "localhost"}
    assert ServerSettings.read(localhost, host="0.0.0.0", insecure_http=True)
    with pytest.raises(SettingsError, match="GRADHELM_ALLOWED_HOSTS"):
        ServerSettings.read(localhost, host="10.0.0.5", insecure_http=True)


def test_names_are_read_as_browsers_send_them() -> None:
    found = ServerSettings.read({"GRADHELM_ALLOWED_HOSTS": " Train.Example.org ,[FD00::5],"})
    assert {"train.example.org", "fd00::5"} <= found.allowed_hosts


@pytest.mark.parametrize(
    "name", ["https://train.example.org", "train.example.org:443", "*.example.org", "*", "a b"]
)
def test_a_name_that_could_never_match_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="GRADHELM_ALLOWED_HOSTS has"):
        ServerSettings.read({"GRADHELM_ALLOWED_HOSTS": name})


@pytest.mark.parametrize(
    "text", ["*", "proxy.example.org", "10.0.0.5/8", "0.0.0.0/0", "::/0", "10.0.0.", "127.0.0.1:80"]
)
def test_what_would_trust_everybody_or_nobody_is_no_proxy(text: str) -> None:
    with pytest.raises(SettingsError, match="GRADHELM_TRUSTED_PROXIES has"):
        ServerSettings.read({"GRADHELM_TRUSTED_PROXIES": text})


@pytest.mark.parametrize("there", TLS)
def test_a_certificate_and_its_key_belong_together(there: str) -> None:
    with pytest.raises(SettingsError, match="belong together"):
        ServerSettings.read({there: TLS[there]})


def test_options_win_over_the_environment() -> None:
    found = ServerSettings.read(TLS, tls_cert="/other.pem", tls_key="/other.pem")
    assert found.tls is not None
    assert str(found.tls.certificate) == "/other.pem"


def test_a_password_in_the_database_url_is_not_shown() -> None:
    url = "postgresql://ann:hunter2@db/runs"
    assert "hunter2" not in repr(ServerSettings.read({}, database_url=url))


# -- how it is reached ----------------------------------------------------------------------------

SHOWN = Shown(("train.example.org", "*.gpu.example.org"), 2e9)


def told(environ: dict[str, str], shown: Shown | None = None, **options: object) -> tuple:
    return reach(ServerSettings.read(environ, **options), shown)  # type: ignore[arg-type]


def test_a_server_of_this_machine_says_so_and_how_to_come_from_elsewhere() -> None:
    how = told({})
    assert (how.address, how.public) == ("http://127.0.0.1:8642",) * 2
    assert "ssh -L 8642:127.0.0.1:8642" in how.words[0]
    assert not how.warnings


def test_all_addresses_are_reached_by_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradhelm_server.reach.exposed", lambda _: False)
    how = told({**TLS, "GRADHELM_ALLOWED_HOSTS": "train.example.org"}, SHOWN, host="0.0.0.0")
    assert how.address == how.public == "https://train.example.org:8642"
    assert not how.warnings
    how = told({**TLS, "GRADHELM_ALLOWED_HOSTS": "a.example,b.gpu.example.org"}, SHOWN, host="::")
    assert how.address == "https://b.gpu.example.org:8642"
    assert "not for a.example" in how.warnings[0]


def test_behind_a_proxy_people_open_its_name() -> None:
    how = told({**PROXIED, "GRADHELM_ALLOWED_HOSTS": "localhost,train.example.org"})
    assert (how.address, how.public) == ("http://127.0.0.1:8642", "https://train.example.org")
    assert "10.0.0.2, 10.1.0.0/16, fd00::2" in how.words[0]
    assert "GRADHELM_ALLOWED_HOSTS" in told(PROXIED).warnings[0]


def test_names_without_a_proxy_or_certificate_are_asked_about() -> None:
    how = told({"GRADHELM_ALLOWED_HOSTS": "train.example.org"})
    assert "GRADHELM_TRUSTED_PROXIES" in how.warnings[0]
    assert not told({"GRADHELM_ALLOWED_HOSTS": "localhost"}).warnings


def test_plain_http_to_the_network_is_warned_of() -> None:
    how = told(NAMED, host="10.0.0.5", insecure_http=True)
    assert how.address == "http://10.0.0.5:8642"
    assert "can be read on the way" in how.warnings[0]


def test_an_address_of_ip_version_6_is_in_brackets() -> None:
    assert told({}, host="::1").address == "http://[::1]:8642"


@pytest.mark.parametrize(
    ("name", "covered"),
    [
        ("train.example.org", True),
        ("x.gpu.example.org", True),
        ("gpu.example.org", False),
        ("x.y.gpu.example.org", False),
        ("xtrain.example.org", False),
        ("127.0.0.1", False),
    ],
)
def test_a_certificate_is_for_its_names_alone(name: str, covered: bool) -> None:
    assert SHOWN.covers(name) is covered
    assert Shown(("0:0:0:0:0:0:0:1",), 2e9).covers("::1")


def test_a_network_of_one_address_is_one() -> None:
    assert ServerSettings.read(PROXIED).trusted_proxies[0] == ip_network("10.0.0.2/32")
    assert Certificate.__annotations__.keys() == {"certificate", "key"}
