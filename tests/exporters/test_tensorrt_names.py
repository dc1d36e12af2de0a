"""Every TensorRT name the code uses exists in TensorRT 10, 11 and TensorRT for RTX.

The lists under data/ are ``dir()`` of the real bindings (the wheels on the package index), imported over empty
stand-ins for the libraries: of the three only TensorRT for RTX can be installed in CI.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = ["exporters/tensorrt.py", "exporters/engine_config.py", "exporters/precision.py"]
FILES += ["toolkit/runners/tensorrt.py", "toolkit/runners/tensorrt_api.py"]
FILES += ["toolkit/handoff/dtk_server/tensorrt_engine.py"]
LISTS = {path.stem: json.loads(path.read_text()) for path in sorted((Path(__file__).parent / "data").glob("*.json"))}
RTX_ONLY = {
    "ComputeCapability",
    "IBuilderConfig.set_compute_capability",
    "IBuilderConfig.num_compute_capabilities",
    "DynamicShapesKernelSpecializationStrategy",
    "DynamicShapesKernelSpecializationStrategy.EAGER",
    "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
}
CLASSES = {  # what the code's variables hold
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "runtime_config": "IRuntimeConfig",
    "profile": "IOptimizationProfile",
    "layer": "ILayer",
    "tensor": "ITensor",
    "operand": "ITensor",
    "first": "ParserError",
    "inspector": "EngineInspector",
    "runtime": "Runtime",
    "refitter": "Refitter",
    "onnx_refitter": "OnnxParserRefitter",
    "engine": "ICudaEngine",
    "self._runtime": "Runtime",
    "self._engine": "ICudaEngine",
    "self._context": "IExecutionContext",
}
NOT_TENSORRT = {"tensor": {"to", "data_ptr", "shape", "record_stream", "contiguous"}, "layer": {"__class__", "kernel"}}


def chains() -> set[str]:
    """Dotted names of TensorRT, such as ``DataType.HALF`` and ``IBuilderConfig.set_flag``, that the files use."""
    found = {"IConvolutionLayer.kernel"}  # of a layer that was given its class
    for file in FILES:
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            if not isinstance(node, ast.Attribute):
                continue
            base, text = ast.unparse(node.value), ast.unparse(node)
            if text.startswith(("trt.", "api.module.")):
                found.add(text.removeprefix("trt.").removeprefix("api.module."))
            elif base in CLASSES and node.attr not in NOT_TENSORRT.get(base, set()):
                found.add(f"{CLASSES[base]}.{node.attr}")
    return {name for name in found if not name.split(".")[-1].startswith("__")}


def exists(name: str, names: dict[str, list[str]]) -> bool:
    owner, _, member = name.partition(".")
    return owner in names[""] and (not member or member in names[owner])


def test_the_names_are_seen() -> None:
    expected = {"LayerType.CONVOLUTION", "IBuilderConfig.set_timing_cache", "IExecutionContext.execute_async_v3"}
    assert expected | RTX_ONLY <= chains() | {"IBuilderConfig.num_compute_capabilities"}
    assert len(chains()) > 40


@pytest.mark.parametrize("version", LISTS)
@pytest.mark.parametrize("name", sorted(chains()))
def test_a_name_exists(name: str, version: str) -> None:
    if name in RTX_ONLY and "rtx" not in version:
        assert not exists(name, LISTS[version]["names"]), f"{name} is no longer of RTX alone"
    else:
        assert exists(name, LISTS[version]["names"]), (
            f"{LISTS[version]['package']} {LISTS[version]['version']}: no {name}"
        )


@pytest.mark.parametrize("removed", ["BuilderFlag.FP16", "BuilderFlag.INT8", "IInt8Calibrator"])
def test_the_lists_tell_versions_apart(removed: str) -> None:
    assert exists(removed, LISTS["tensorrt-10.16"]["names"])
    assert not exists(removed, LISTS["tensorrt-11.4"]["names"])


def test_the_installed_builder_is_the_recorded_one() -> None:
    trt: Any = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    recorded = LISTS["tensorrt-rtx-1.7"]
    if trt.__version__ != recorded["version"]:
        pytest.skip(f"the list is of {recorded['version']}, installed is {trt.__version__}")
    assert [name for name in dir(trt) if not name.startswith("_")] == recorded["names"][""]
