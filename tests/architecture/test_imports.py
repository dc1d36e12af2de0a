"""What an import drags in: ``dtk --help``, ``import toolkit``, every package and all settings need no framework."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.architecture.source import FILES, ROOT, name

HEAVY = {"accelerate", "diffusers", "onnx", "onnxruntime", "onnxscript", "openvino", "scipy", "tensorrt"}
HEAVY |= {"tensorrt_rtx", "torch", "torch_pruning"}
LIGHT = ["toolkit.cli", "toolkit.core.errors", "toolkit.core.files", "toolkit.core.noise", "toolkit.core.run_folder"]
LIGHT += [
    name(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for path in FILES
    if path.name in {"__init__.py", "settings.py"} and "dtk_server" not in path.parts
]

CODE = """
import importlib, json, sys
brought = {}
for module in json.loads(sys.argv[1]):
    before = set(sys.modules)
    importlib.import_module(module)
    brought[module] = sorted({name.split(".")[0] for name in set(sys.modules) - before})
print(json.dumps(brought))
"""


def brought_by(*modules: str) -> dict[str, set[str]]:
    """For each module the top-level modules that its import added in a fresh interpreter, one after the other."""
    command = [sys.executable, "-c", CODE, json.dumps(modules)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {module: set(added) for module, added in json.loads(done.stdout.splitlines()[-1]).items()}


def test_light_modules_bring_no_framework() -> None:
    found = {module: added & HEAVY for module, added in brought_by(*LIGHT).items() if added & HEAVY}
    assert not found


@pytest.mark.slow
def test_the_measurement_sees_a_framework() -> None:
    assert "torch" in brought_by("torch")["torch"]
