"""The layer an engine's fault begins at: what Polygraphy is asked, and what is made of its answer.

It compares on a GPU alone, so a program in its place says what polygraphy 0.53.6 said of two graphs that differ.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from exporters import engine_exporter, layer_comparison
from exporters.base import NAMES, Exported
from exporters.layer_comparison import differing_layers
from exporters.parity import ParityError
from exporters.settings import ExportSettings
from toolkit.core.progress import silent
from toolkit.runners import tensorrt_api
from toolkit.runners.tensorrt_api import TensorRT

SHAPES = {"sample": [(1, 3, 8, 8), (2, 3, 8, 8), (4, 3, 8, 8)], "timestep": [(1,), (2,), (4,)]}
SAID = """
[E]         FAILED | Output: 'conv2d_4' | Difference exceeds tolerance (rel=1e-05, abs=1e-05)
[I]         PASSED | Output: 'val_41' | Difference is within tolerance (rel=1e-05, abs=1e-05)
[E]         FAILED | Output: 'add_150' | Difference exceeds tolerance (rel=1e-05, abs=1e-05)
"""


@pytest.fixture
def polygraphy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of that name that notes what it was asked; returns where."""
    package, asked = tmp_path / "site" / "polygraphy", tmp_path / "asked.json"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "tools.py").write_text(
        "import json, os, sys\n"
        "def main():\n"
        f"    json.dump([sys.argv[1:], os.environ.get('POLYGRAPHY_USE_TENSORRT_RTX')], open({str(asked)!r}, 'w'))\n"
        f"    print({SAID!r})\n"
        "    return 1\n"
    )
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    return asked


def test_the_first_layers_that_differ_are_named(polygraphy: Path, tmp_path: Path) -> None:
    log = tmp_path / "layers.log"
    told = differing_layers(tmp_path / "dense.onnx", SHAPES, 0.01, log, rtx=True)
    assert "conv2d_4, add_150" in told and "val_41" not in told and str(log) in told
    assert "FAILED | Output: 'add_150'" in log.read_text()
    asked, rtx = json.loads(polygraphy.read_text())
    assert asked[:2] == ["run", str(tmp_path / "dense.onnx")] and {"--onnxrt", "--trt", "--strongly-typed"} <= set(
        asked
    )
    sizes = asked.index("--input-shapes")
    assert asked[sizes + 1 : sizes + 3] == ["sample:[1,3,8,8]", "timestep:[1]"] and rtx == "1"


def test_without_polygraphy_it_is_said_how(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(layer_comparison, "find_spec", lambda name: None)
    assert "pip install polygraphy" in differing_layers(tmp_path / "m.onnx", SHAPES, 0.01, tmp_path / "log")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("polygraphy")
def test_an_engine_out_of_tolerance_says_where_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Rung:
        def __init__(self, *args: Any, **options: Any) -> None:
            pass

        def engine(self, plan: Path, onnx: Path) -> None:
            raise ParityError("The dense model as TensorRT engine fp16 does not compute what torch computes.")

    entry = SimpleNamespace(plan=tmp_path / "engine.plan", finding=lambda name, find: find())
    monkeypatch.setattr(engine_exporter, "Ladder", Rung)
    monkeypatch.setattr(engine_exporter, "has_gpu", lambda: True)
    monkeypatch.setattr(engine_exporter, "build_engine", lambda *args, **options: entry)
    monkeypatch.setattr(engine_exporter, "load_tensorrt", lambda: TensorRT(tensorrt_api, rtx=False))
    sides = {"inputs": {"sample": {"shape": ["batch", 3, 8, 8]}}}
    onnx = {name: {"file": f"{name}.onnx"} | sides for name in (*NAMES, "compressed_step")}
    models: Any = {name: SimpleNamespace(sha256=name) for name in NAMES}
    with pytest.raises(ParityError, match=r"dense model as TensorRT engine[\s\S]*first layers that differ.*conv2d_4"):
        engine_exporter.EXPORTER.write(tmp_path, Exported(tmp_path, onnx, models, ExportSettings()), silent)
    assert (tmp_path / "layers-dense.log").is_file()
