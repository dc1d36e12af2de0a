"""Where something ran: versions, machine and device, recorded next to every figure."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from toolkit.core.errors import DtkError, UsageError

PACKAGES = (
    "dtk",
    "torch",
    "diffusers",
    "torch-pruning",
    "accelerate",
    "numpy",
    "safetensors",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "optimum",
    "transformers",
)


def installed_version(package: str) -> str | None:
    """The installed version of a distribution, None if it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Python and every package of interest that is installed."""
    installed = {name: installed_version(name) for name in PACKAGES}
    return {"python": platform.python_version()} | {name: v for name, v in installed.items() if v}


def processor_name() -> str:
    """The processor's model name, as the system tells it."""
    try:
        with Path("/proc/cpuinfo").open() as lines:
            names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def resolve_device(requested: str) -> str:
    """Where to compute: "auto" is the GPU if torch sees one, else the CPU; DtkError for a GPU that is not there."""
    import torch

    if requested == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.device(requested)
    except RuntimeError as error:
        expected = "auto, cpu, cuda, or one of several, such as cuda:1"
        raise UsageError(f"Unknown device {requested!r}.", expected=expected) from error
    if requested.startswith("cuda") and not torch.cuda.is_available():
        raise DtkError("torch sees no CUDA device here.", found=f"--device {requested}", expected="cpu")
    if requested.startswith("cuda:") and int(requested[5:]) >= (count := torch.cuda.device_count()):
        raise DtkError(
            f"torch sees {count} CUDA devices here.", found=f"--device {requested}", expected="cuda:0 and on"
        )
    return requested


def machine(device: str = "cpu") -> dict[str, object]:
    """The machine a figure was measured on; names the GPU, its memory and driver when ``device`` is one."""
    facts: dict[str, object] = {
        "system": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "device": device,
    }
    if device.startswith("cuda"):
        import torch

        properties = torch.cuda.get_device_properties(device)
        facts |= {
            "gpu": properties.name,
            "gpu_memory_mib": properties.total_memory // 2**20,
            "compute_capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
        }
    return facts
