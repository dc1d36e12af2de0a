"""Which TensorRT is installed.

TensorRT 10 and 11 need a GPU for everything, TensorRT for RTX builds without. The three share one Python surface; what
differs depends on ``TensorRT.rtx``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from toolkit.core.errors import DtkError, MissingToolError, first_line

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


def gpu_facts(device: str = "cuda") -> dict[str, Any]:
    """What an engine depends on besides its builder: the GPU and its compute capability."""
    import torch

    if not torch.cuda.is_available():
        return {"gpu": None, "gpu_capability": None}
    properties = torch.cuda.get_device_properties(device)
    return {"gpu": properties.name, "gpu_capability": f"sm{properties.major}{properties.minor}"}


def driver_version() -> int | None:
    """The CUDA version of the driver, such as 13000, by NVML: recorded with an engine, which an update leaves valid."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
    except Exception:  # not installed, or no NVIDIA driver: NVML's errors are made when it is loaded
        return None


def elsewhere(built: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Why an engine built with the facts ``built`` does not run ``here``, in words; empty if it does.

    An engine of TensorRT is of one version and one model of GPU, unless it was built to be compatible. Engines of
    TensorRT for RTX hold for every GPU they were built for: its runtime judges.
    """
    needed = ["builder", *([] if built.get("version_compatible") else ["version"])]
    if here["builder"] != "tensorrt_rtx":
        level = built.get("hardware_compatible", "none")
        needed += {"none": ["gpu", "gpu_capability"], "capability": ["gpu_capability"], "ampere": []}[level]
    differ = [f"{name} {built[name]} (here {here[name]})" for name in needed if built[name] != here[name]]
    if "version" not in needed and not later_version(here["version"], built["version"]):
        differ.append(f"version {built['version']} or a later one of the same major version (here {here['version']})")
    return differ


def later_version(here: str, built: str) -> bool:
    """Whether a version-compatible engine of version ``built`` runs in version ``here``."""
    own, least = ([int(part) for part in version.split(".")[:3]] for version in (here, built))
    return own[0] == least[0] and own >= least


def refitted(api: TensorRT, engine: Any, logger: Any, onnx: Path) -> None:
    """Put the weights of the ONNX file it was built from into an engine built without them."""
    trt = api.module
    refitter = trt.Refitter(engine, logger)
    onnx_refitter = trt.OnnxParserRefitter(refitter, logger)
    if not onnx_refitter.refit_from_file(str(onnx)) or not refitter.refit_cuda_engine():
        missing = ", ".join(refitter.get_missing_weights()[:3])
        raise DtkError(f"The weights of {onnx} do not fit the engine that was built without them.", found=missing)
