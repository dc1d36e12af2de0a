"""What an import drags in: heavy frameworks are leaves."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.architecture.source import ROOT

HEAVY = {
    "accelerate",
    "diffusers",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "scipy",
    "tensorrt",
    "tensorrt_rtx",
    "torch",
    "torch_pruning",
}
LIGHT = [
    "toolkit.cli",
    "toolkit.core.errors",
    "toolkit.core.files",
    "toolkit.core.noise",
    "toolkit.core.run_folder",
    "toolkit.core.settings",
]


def modules_after(statement: str) -> set[str]:
    """The top-level modules a fresh interpreter holds after ``statement``."""
    code = f"import json, sys; {statement}; print(json.dumps(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("module", LIGHT)
def test_a_light_module_brings_no_framework(module: str) -> None:
    assert not HEAVY & modules_after(f"import {module}")


def test_the_measurement_sees_a_framework() -> None:
    assert "torch" in modules_after("import torch")
