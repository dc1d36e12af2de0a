"""Which TensorRT is installed.

TensorRT 10 and 11 need a GPU for everything, TensorRT for RTX builds without. The three share one Python surface; what
differs depends on ``TensorRT.rtx``.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from toolkit.core.errors import MissingToolError, first_line

PACKAGES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")  # the last if only the bare wheels were installed
INSTALL = 'pip install ".[gpu]" next to an NVIDIA GPU (TensorRT), or pip install ".[rtx]" (builds without a GPU)'


@dataclass(frozen=True)
class TensorRT:
    """An installed TensorRT: its module, and whether it is TensorRT for RTX."""

    module: ModuleType
    rtx: bool

    @property
    def package(self) -> str:
        return "tensorrt_rtx" if self.rtx else "tensorrt"

    @property
    def version(self) -> str:
        return str(self.module.__version__)


def load_tensorrt() -> TensorRT:
    """The TensorRT that can work here; TensorRT for RTX if there is no GPU. Raises MissingToolError if none can."""
    reasons = []
    for name in PACKAGES:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            reasons.append(f"{name}: {first_line(error)}")
            continue
        api = TensorRT(module, rtx=hasattr(module, "ComputeCapability"))
        if not hasattr(module, "Builder"):
            reasons.append(f"{name}: it has no builder")
        elif not api.rtx and not has_gpu():  # its Builder fails without a driver, its Runtime ends the process
            reasons.append(f"{name} {api.version}: it does nothing without an NVIDIA GPU")
        else:
            return api
    raise MissingToolError("No TensorRT can work here.", found="; ".join(reasons), do=INSTALL)


def has_gpu() -> bool:
    """Whether torch sees a CUDA device."""
    import torch

    return torch.cuda.is_available()


def gpu_facts() -> dict[str, Any]:
    """What an engine depends on besides its builder: the GPU, its compute capability and the driver's CUDA version."""
    import torch

    if not torch.cuda.is_available():
        return {"gpu": None, "gpu_capability": None, "driver": None}
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "gpu_capability": f"sm{properties.major}{properties.minor}",
        "driver": torch._C._cuda_getDriverVersion(),  # type: ignore[attr-defined]
    }
