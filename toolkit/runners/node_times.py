"""The time of each node of an exported denoiser, by the runtime's own profiler."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Protocol

import torch

Times = list[tuple[str, float]]
"""(name, ms) of every node of one call, in the order they ran; the runtime may have fused several under one name."""


class NodeTimes(Protocol):
    """A runner that notes its nodes' times; it is slower than one that does not."""

    def __call__(self, **inputs: torch.Tensor) -> None: ...
    def close(self) -> list[Times]:
        """The times of each call so far; it is not called again."""
        ...


class OnnxRuntimeNodes:
    """An exported denoiser (.onnx) in ONNX Runtime on the CPU. On a GPU its profiler would tell launches alone."""

    def __init__(self, path: Path) -> None:
        from toolkit.runners.onnxruntime import OnnxRuntimeRunner

        self._folder = tempfile.TemporaryDirectory(prefix="dtk-nodes-")
        self._runner = OnnxRuntimeRunner(path, device="cpu", profile=Path(self._folder.name) / "nodes")

    def __call__(self, **inputs: torch.Tensor) -> None:
        self._runner(**inputs)

    def close(self) -> list[Times]:
        with self._folder:
            return calls_of(json.loads(self._runner.end_profiling().read_text()))


def calls_of(events: list[dict[str, Any]]) -> list[Times]:
    """The nodes' times of each call in ONNX Runtime's trace: microseconds, a ``model_run`` around each call."""
    suffix = "_kernel_time"
    nodes = sorted((e for e in events if e["cat"] == "Node" and e["name"].endswith(suffix)), key=lambda e: e["ts"])
    found = []
    for run in sorted((e for e in events if e["name"] == "model_run"), key=lambda e: e["ts"]):
        inside = [e for e in nodes if run["ts"] <= e["ts"] <= run["ts"] + run["dur"]]
        found.append([(e["name"].removesuffix(suffix), e["dur"] / 1e3) for e in inside])
    return found


class TensorRTNodes:
    """A plan in TensorRT, on the GPU it was built for."""

    def __init__(self, path: Path, *, device: str) -> None:
        from toolkit.runners.tensorrt import TensorRTRunner

        self._runner = TensorRTRunner(path, device=device)
        self._profiler = self._runner.attach_profiler()
        self._calls: list[Times] = []

    def __call__(self, **inputs: torch.Tensor) -> None:
        self._profiler.times = []
        self._runner(**inputs)
        torch.cuda.synchronize(self._runner.device)
        self._calls.append(self._profiler.times)

    def close(self) -> list[Times]:
        self._runner.close()
        return self._calls
