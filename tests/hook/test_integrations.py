"""Integrations whose framework is not there say which package to install."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gradhelm


@pytest.mark.parametrize(
    ("module", "packages", "told"),
    [
        ("accelerate", ["accelerate"], "pip install accelerate"),
        ("transformers", ["transformers"], "pip install transformers accelerate"),
        ("lightning", ["lightning", "pytorch_lightning"], "pip install lightning"),
    ],
)
def test_a_missing_framework_is_named_with_what_to_install(module, packages, told):
    program = (
        f"import sys\nfor name in {packages}: sys.modules[name] = None\n"
        f"try:\n    import gradhelm.integrations.{module}\n"
        "except ImportError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(Path(gradhelm.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(f"gradhelm.integrations.{module} needs ")
    assert done.stdout.endswith(f": {told}\n")
    assert done.stdout.count("\n") == 1
