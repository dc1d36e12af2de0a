"""What `dtk doctor` tries: a library can be installed and still not load what it needs. None means that it worked."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from exporters.engines import write_engine
from exporters.onnx import describe
from exporters.settings import ExportSettings
from toolkit.core.errors import DtkError, first_line
from toolkit.core.files import read_json, write_json
from toolkit.core.progress import silent
from toolkit.runners.base import Runner
from toolkit.runners.onnxruntime import OnnxRuntimeRunner
from toolkit.runners.openvino import OpenVINORunner
from toolkit.runners.tensorrt import TensorRTRunner
from toolkit.runners.tensorrt_api import TensorRT, load_tensorrt

NEGATION = """
<ir_version: 8, opset_import: ["" : 18]>
negation (float[B, 1] sample, int64[B] timestep) => (float[B, 1] prediction) {
    start = Cast<to = 1>(timestep)
    axis = Constant<value_ints = [1]>()
    column = Unsqueeze(start, axis)
    prediction = Sub(column, sample)
}
"""


def try_torch(device: str) -> str | None:
    """Why torch computes no convolution on ``device``."""
    import torch

    try:
        torch.nn.functional.conv2d(torch.ones(1, 1, 4, 4, device=device), torch.ones(1, 1, 3, 3, device=device))
    except RuntimeError as error:
        return f"a convolution failed: {first_line(error)}"
    return None


def _try_graph(open_graph: Callable[..., Runner], device: str) -> str | None:
    """Open a graph of one node: a library can be there and still not load what it needs."""
    import torch

    with _graph() as path:
        try:
            with closing(open_graph(path, device=device)) as runner:
                given = torch.ones(2, 1, device=device)
                right = torch.equal(runner(given, torch.zeros(2, dtype=torch.int64, device=device)), -given)
        except (DtkError, RuntimeError) as error:
            return str(error).replace("\n ", ";")
    return None if right else "it computed a wrong value"


@contextmanager
def _graph() -> Iterator[Path]:
    """An ONNX file of a few nodes, with its description."""
    from onnx import save
    from onnx.parser import parse_model

    with tempfile.TemporaryDirectory(prefix="dtk-doctor-") as folder:
        path = Path(folder) / "attempt.onnx"
        save(parse_model(NEGATION), path)
        write_json(path.with_suffix(".json"), describe(path) | {"dtype": "fp32"})
        yield path


def _built(api: TensorRT, onnx: Path) -> Path:
    settings = ExportSettings.model_validate({"batch": "1:2:2"})
    plan, description = onnx.with_suffix(".plan"), read_json(onnx.with_suffix(".json"))
    write_engine(api, onnx, description, plan, settings, silent, cache=onnx.parent / "engines")
    return plan


def try_build(api: TensorRT) -> str | None:
    """Why a TensorRT builds no engine."""
    with _graph() as path:
        try:
            _built(api, path)
        except (DtkError, RuntimeError, TypeError) as error:  # a builder that gets no GPU is a TypeError of its binding
            return str(error).replace("\n ", ";")
    return None


def _try_engine(device: str) -> str | None:
    """Build and run an engine; TensorRT for RTX builds for GPUs that it then refuses to run on."""
    return _try_graph(lambda path, device: TensorRTRunner(_built(load_tensorrt(), path), device=device), device)


ATTEMPTS = {
    "torch": try_torch,
    "onnxruntime": lambda device: _try_graph(OnnxRuntimeRunner, device),
    "openvino": lambda device: _try_graph(OpenVINORunner, device),
    "tensorrt": _try_engine,
}
