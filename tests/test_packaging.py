"""What people install: the wheel, light and full, in environments that hold nothing else.

Builds and installs by pip, with the pins of constraints-dev.txt; takes some 20 s.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import NamedTuple
from zipfile import ZipFile

import pytest

import gradhelm

pytestmark = pytest.mark.packaging

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"gradhelm", "gradhelm_server", "gradhelm_dashboard", "gradhelm_migrations"}
SCRIPTS = "Scripts" if os.name == "nt" else "bin"


class Installed(NamedTuple):
    """A virtual environment, and an empty folder to run its programs in."""

    venv: Path
    folder: Path

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.venv / SCRIPTS / program), *arguments],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )

    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("GRADHELM_", "PYTHON"))}
        return {**kept, "GRADHELM_HOME": str(self.folder / "home")}


def pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments],
        env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    pip("wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    (found,) = folder.glob("gradhelm-*.whl")
    return found


def install(wheel: Path, extra: str, folder: Path) -> Installed:
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    pip(
        f"--python={venv / SCRIPTS / 'python'}",
        "install",
        "--quiet",
        "--no-compile",
        f"--constraint={ROOT / 'constraints-dev.txt'}",
        f"{wheel}{extra}",
    )
    empty = folder / "somewhere"
    empty.mkdir()
    return Installed(venv, empty)


@pytest.fixture(scope="session")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return install(wheel, "", tmp_path_factory.mktemp("light"))


@pytest.fixture(scope="session")
def full(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    return install(wheel, "[all]", tmp_path_factory.mktemp("full"))


# -- the wheel ------------------------------------------------------------------------------------


def test_nothing_of_ours_stands_in_the_way_of_a_users_own_module(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == PACKAGES


def test_the_wheel_holds_types_licence_migrations_and_the_pages_assets(wheel: Path) -> None:
    names = ZipFile(wheel).namelist()
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.startswith("gradhelm_migrations/versions/") for name in names)
    vendor = [n for n in names if n.startswith("gradhelm_dashboard/assets/vendor/")]
    assert any(name.endswith("uplot.js") for name in vendor)
    assert any(name.endswith(".woff2") for name in vendor)
    assert any("licen" in name.lower() for name in vendor), "the licences of what we ship"
    assert not any("__pycache__" in name or "node_modules" in name for name in names)


# -- the hook alone -------------------------------------------------------------------------------


def test_the_hook_alone_brings_three_packages_and_no_torch(light: Installed) -> None:
    program = (
        "import importlib.metadata as m; print(*sorted(d.name.lower() for d in m.distributions()))"
    )
    done = light.run("python", "-c", program)
    assert done.stdout.split() == ["gradhelm", "msgspec", "numpy", "websockets"]


def test_the_wire_can_be_read_without_torch(light: Installed) -> None:
    program = "from gradhelm import wire; print(wire.decode_from_server(wire.encode(wire.Ack(7))))"
    done = light.run("python", "-c", program)
    assert done.stdout.strip() == "Ack(seq=7)", done.stderr


def test_the_command_works_without_the_server(light: Installed) -> None:
    done = light.run("gradhelm", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "doctor" in done.stdout


@pytest.mark.parametrize("command", [["up"], ["serve"], ["db", "upgrade"]])
def test_what_needs_the_server_says_how_to_get_it(light: Installed, command: list[str]) -> None:
    done = light.run("gradhelm", *command)
    assert done.returncode == 2
    assert 'pip install "gradhelm[all]"' in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_server_that_is_not_there_costs_one_line(light: Installed) -> None:
    environment = {**light.environment(), "GRADHELM_SERVER": "http://127.0.0.1:9"}
    command = [str(light.venv / SCRIPTS / "gradhelm"), "runs"]
    done = subprocess.run(
        command, env=environment, cwd=light.folder, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


# -- all of it ------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", [["gradhelm"], ["python", "-m", "gradhelm"]])
def test_the_version_is_the_one_of_the_source(full: Installed, program: list[str]) -> None:
    done = full.run(*program, "--version")
    assert done.stdout.strip() == f"gradhelm {gradhelm.__version__}", done.stderr


def test_a_users_own_server_module_wins(full: Installed) -> None:
    (full.folder / "server.py").write_text("WHOSE = 'mine'\n")
    (full.folder / "train.py").write_text(
        "import server, gradhelm_server.app, gradhelm.wire\nprint(server.WHOSE)\n"
    )
    done = full.run("python", "train.py")
    assert done.stdout.strip() == "mine", done.stderr


def test_the_installed_server_migrates_serves_and_stops(full: Installed) -> None:
    done = full.run("gradhelm", "db", "upgrade")
    assert done.returncode == 0, done.stderr
    revision = json.loads(full.run("gradhelm", "db", "current", "--json").stdout)
    assert revision["current"] == revision["needed"] is not None
    server = subprocess.Popen(
        [str(full.venv / SCRIPTS / "gradhelm"), "serve", "--port", str(free_port())],
        cwd=full.folder,
        env=full.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert server.stdout is not None
        address = server.stdout.readline().split()[-1]
        assert address.startswith("http://127.0.0.1:"), server.stdout.read()
        with urllib.request.urlopen(f"{address}/readyz", timeout=10) as answer:
            assert answer.status == 200
        with urllib.request.urlopen(f"{address}/login", timeout=10) as answer:
            assert b"<html" in answer.read()
    finally:
        server.terminate()
        server.communicate(timeout=15)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
