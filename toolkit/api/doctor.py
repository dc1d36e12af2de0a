"""Whether what is installed fits together, and which runners would really run here, in words.

What a package needs is read from its own metadata, so that there is no matrix to go stale; only what no metadata can
say (two packages that write the same files, a driver, a library that does not load) is known here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from toolkit.api.attempts import ATTEMPTS, try_build, try_torch
from toolkit.api.results import Diagnosis
from toolkit.core.environment import PACKAGES, installed_version, machine, versions
from toolkit.core.errors import DtkError
from toolkit.runners.base import known_runners, unavailable
from toolkit.runners.tensorrt_api import load_tensorrt

WATCHED = (*PACKAGES, "optimum-onnx", "onnxruntime-extensions", "huggingface-hub", "tokenizers", "triton", "peft")
REINSTALL = 'pip install ".[gpu]" again (TensorRT and torch for the same CUDA), and see `nvidia-smi` for the driver'
Status = Literal["fits", "note", "conflict"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at: whether it fits, what was found, and what would fix it."""

    name: str
    status: Status
    found: str
    do: str | None = None


def doctor() -> Diagnosis:
    """Whether what is installed fits together, and by device which runners would run, or why not."""
    findings = [*requirements(), *same_files(), *torch_and_gpu(), *tensorrt(), *optimum()]
    return Diagnosis(
        {
            "ok": not any(finding.status == "conflict" for finding in findings),
            "findings": [asdict(finding) for finding in findings],
            "runners": runners(),
            "versions": versions(),
            "machine": machine(),
        }
    )


def requirements(watched: tuple[str, ...] = WATCHED) -> Iterator[Finding]:
    """What each installed package of interest needs of the others, held against what is there."""
    for package in watched:
        try:
            wanted = [Requirement(line) for line in requires(package) or []]
        except PackageNotFoundError:
            continue
        wrong = [unmet for one in wanted if (unmet := _unmet(one, extras=package == "dtk"))]
        name = f"{package} {installed_version(package)}"
        if wrong:
            yield Finding(name, "conflict", "; ".join(wrong), f"pip install '{package}' again, or see constraints.txt")
        else:
            yield Finding(name, "fits", "all it requires is there")


def _unmet(wanted: Requirement, *, extras: bool) -> str | None:
    """Why a requirement is not met, None if it is or does not apply.

    One of an extra applies with ``extras`` only, and then only to what is installed.
    """
    optional = wanted.marker is not None and not wanted.marker.evaluate({"extra": ""})
    installed = installed_version(wanted.name)
    if optional and (not extras or installed is None):
        return None
    if installed is None:
        return f"it needs {wanted.name}, which is not installed"
    if wanted.specifier.contains(installed, prereleases=True):
        return None
    return f"it needs {wanted.name}{wanted.specifier}, and {installed} is installed"


def same_files() -> Iterator[Finding]:
    """The packages onnxruntime and onnxruntime-gpu write the same files: with both, either may be half overwritten."""
    there = [name for name in ("onnxruntime", "onnxruntime-gpu") if installed_version(name)]
    installed = " and ".join(f"{name} {installed_version(name)}" for name in there)
    if len(there) == 2:
        fix = 'pip uninstall onnxruntime onnxruntime-gpu, then pip install ".[cpu]" or ".[gpu]"'
        yield Finding("ONNX Runtime", "conflict", f"{installed} overwrite each other", fix)
    elif not there:
        yield Finding("ONNX Runtime", "note", "not installed", 'pip install ".[cpu]" or ".[gpu]"')
    else:
        yield Finding("ONNX Runtime", "fits", installed)


def torch_and_gpu() -> Iterator[Finding]:
    """Whether torch's build and the machine's driver find each other."""
    import torch

    built = torch.version.cuda
    if built is None:
        yield Finding("CUDA", "note", f"torch {torch.__version__} was built without CUDA: it computes on the CPU only")
    elif not torch.cuda.is_available():
        yield Finding("CUDA", "note", f"torch was built for CUDA {built}, and sees no device", _driver_hint())
    else:
        capability = "sm_{}{}".format(*torch.cuda.get_device_capability())
        gpu = f"{torch.cuda.get_device_name()} ({capability}), torch built for CUDA {built}"
        failed = try_torch("cuda")
        if failed:
            fix = (
                f"install a torch that was built for {capability}: this one has {', '.join(torch.cuda.get_arch_list())}"
            )
            yield Finding("CUDA", "conflict", f"{gpu}: {failed}", fix)
        else:
            yield Finding("CUDA", "fits", gpu)


def _driver_hint() -> str:
    if Path("/proc/driver/nvidia/version").exists():
        return "the driver is there: it may be older than this CUDA needs, or CUDA_VISIBLE_DEVICES hides the device"
    return "there is no NVIDIA driver on this machine"


def tensorrt() -> Iterator[Finding]:
    """Which TensorRT can work here, and whether ONNX Runtime's TensorRT provider could load next to it."""

    try:
        api = load_tensorrt()
    except DtkError as error:
        yield Finding("TensorRT", "note", str(error).replace("\n ", ";"))
        return
    failed = try_build(api)
    if failed:
        yield Finding("TensorRT", "conflict", f"{api.package} {api.version} builds no engine: {failed}", REINSTALL)
        return
    yield Finding("TensorRT", "fits", f"{api.package} {api.version} builds an engine")
    if not api.rtx and installed_version("onnxruntime-gpu") and not api.version.startswith("10."):
        explanation = f"onnxruntime-gpu links TensorRT 10, so its TensorRT provider cannot load next to {api.version}"
        yield Finding("TensorRT in ONNX Runtime", "note", explanation, "dtk runs TensorRT itself and does not need it")


def optimum() -> Iterator[Finding]:
    """optimum-onnx needs an older transformers and diffusers than dtk: it belongs in an environment of its own."""
    if installed_version("optimum-onnx") and installed_version("dtk"):
        explanation = "in dtk's own environment; its ranges of transformers and diffusers end below dtk's"
        yield Finding("optimum-onnx", "note", explanation, 'an environment of its own: pip install ".[optimum]" there')


def runners() -> dict[str, dict[str, str | None]]:
    """By device and runner: None if it would really run, else why not."""
    import torch

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    by_device = {device: {name: unavailable(name, device) for name in known_runners()} for device in devices}
    for device, reasons in by_device.items():
        for name, attempt in ATTEMPTS.items():
            if reasons.get(name, "") is None:
                reasons[name] = attempt(device)
    return by_device
