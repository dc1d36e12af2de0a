"""Every name that the code reaches through ``torch.`` exists: most of those of a GPU are called by no test of a CPU."""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("toolkit", "exporters", "profiles", "benchmarks")


def names() -> dict[str, str]:
    """Dotted names such as ``torch.cuda.Stream``, and a file that uses each."""
    found: dict[str, str] = {}
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            text = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            if text.startswith("torch.") and text.replace(".", "").replace("_", "").isalnum():
                found.setdefault(text, str(path.relative_to(ROOT)))
    return found


def exists(name: str) -> bool:
    """Whether ``name`` can be reached, a submodule imported on the way if need be."""
    value: object = torch
    for depth, part in enumerate(name.split(".")[1:], start=2):
        if isinstance(value, ModuleType) and not hasattr(value, part):
            try:
                import_module(".".join(name.split(".")[:depth]))
            except ImportError:
                return False
        value = getattr(value, part, None)
        if value is None:
            return name in OFF_A_GPU
    return True


OFF_A_GPU = {"torch.version.cuda"}  # None in a build for CPUs


@pytest.mark.parametrize("name", names())
def test_a_name_of_torch_exists(name: str) -> None:
    assert exists(name), f"{names()[name]} uses {name}, which torch {torch.__version__} does not have"


def test_an_unknown_name_is_found_out() -> None:
    assert len(names()) > 100
    assert not exists("torch._C._cuda_getDriverVersion") and not exists("torch.cuda.driver")
