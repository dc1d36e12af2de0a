"""What a build is asked for: set on TensorRT's builder, and as the command of NVIDIA's own tool that repeats it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from exporters.settings import BatchRange, EngineSettings
from toolkit.core.errors import UsageError
from toolkit.runners.tensorrt_api import TensorRT, gpu_facts, has_gpu

Shapes = Mapping[str, Sequence[tuple[int, ...]]]
"""Of each input the smallest shape, the one to optimise for, and the largest."""
TOOL_LEVELS = {"capability": "sameComputeCapability", "ampere": "ampere+"}
FIRST_BF16 = 80  # compute capability: Ampere


def profile_shapes(
    inputs: Mapping[str, Any], batch: BatchRange, items: Mapping[str, tuple[int, ...]] | None = None
) -> Shapes:
    """The shapes to build for, of an ONNX file's ``inputs`` as its description has them.

    ``items`` gives the shape of one item of an input with dynamic sides.
    """
    of_items = {name: tuple(described["shape"][1:]) for name, described in inputs.items()} | dict(items or {})
    return {name: [(size, *item) for size in (batch.min, batch.opt, batch.max)] for name, item in of_items.items()}


def configure(api: TensorRT, config: Any, settings: EngineSettings) -> None:
    """Set all of ``settings`` on a builder's configuration. Raises UsageError for what this TensorRT cannot do."""
    trt = api.module
    check(api, settings)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.builder_optimization_level = settings.level
    if not settings.tf32:  # on by default: float32 would then mean something else than for torch
        config.clear_flag(trt.BuilderFlag.TF32)
    if settings.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mib * 2**20)
    if settings.hardware_compatible == "capability":
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
    if settings.hardware_compatible == "ampere":
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if settings.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if settings.weights == "refit":
        config.set_flag(trt.BuilderFlag.REFIT)
    if settings.weights == "stripped":
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
    _set_targets(api, config, settings.compute_capability)


def check(api: TensorRT, settings: EngineSettings) -> None:
    """Raise UsageError for settings that the installed TensorRT cannot do, here or at all."""
    compatible = settings.hardware_compatible != "none" or settings.version_compatible
    if api.rtx and compatible:
        raise UsageError(
            "TensorRT for RTX builds no compatible engines: it compiles where the engine is opened.",
            found="hardware_compatible or version_compatible",
            expected="--compute-capability names the GPUs it builds for",
        )
    if not api.rtx and settings.compute_capability:
        found = f"--compute-capability {','.join(settings.compute_capability)}"
        raise UsageError("TensorRT builds for the GPU it runs on.", found=found, expected="none")
    if api.rtx and settings.weights != "fixed" and not has_gpu():
        raise UsageError(
            "TensorRT for RTX needs a GPU to build an engine whose weights may change.",
            found=f"--weights {settings.weights} without a GPU",
            do="leave out --weights, or build on a machine with a GPU",
        )


def check_bf16(settings: EngineSettings) -> None:
    """Refuse bfloat16 for GPUs older than Ampere, those of the settings or the one at hand."""
    here = gpu_facts()["gpu_capability"]
    targets = settings.compute_capability or ((here,) if here else ())
    old = [name for name in targets if name[2:].isdecimal() and int(name[2:]) < FIRST_BF16]
    if old:
        raise UsageError(
            f"A GPU of compute capability {old[0]} has no bfloat16 (a T4 is sm75).",
            expected=f"sm{FIRST_BF16} or later for bf16",
            do="export fp16: --dtype fp16",
        )


def _set_targets(api: TensorRT, config: Any, names: Sequence[str]) -> None:
    if not names:
        return
    known = api.module.ComputeCapability
    config.num_compute_capabilities = len(names)
    for number, name in enumerate(names):
        target = getattr(known, name.upper(), None)
        if target is None or not config.set_compute_capability(target, number):
            accepted = sorted(entry.lower() for entry in known.__members__ if entry.startswith("SM"))
            raise UsageError(
                f"{api.package} {api.version} does not build for {name}.", expected=f"one of {', '.join(accepted)}"
            )


def command(
    api: TensorRT, shapes: Shapes, settings: EngineSettings, *, onnx: str, plan: str, timing: str | None
) -> list[str]:
    """The call of trtexec (of TensorRT for RTX: tensorrt_rtx) that builds the same engine, word by word."""
    words = [f"--onnx={onnx}", f"--saveEngine={plan}", "--skipInference", "--profilingVerbosity=detailed"]
    for edge, number in (("min", 0), ("opt", 1), ("max", 2)):
        of_input = (f"{name}:{'x'.join(map(str, sizes[number]))}" for name, sizes in shapes.items())
        words.append(f"--{edge}Shapes={','.join(of_input)}")
    words.append(f"--builderOptimizationLevel={settings.level}")
    optional = {
        "--stronglyTyped": api.version.startswith("10."),  # from 11 on, and in RTX, the only way
        "--noTF32": not settings.tf32,
        f"--memPoolSize=workspace:{settings.workspace_mib}": settings.workspace_mib is not None,
        f"--hardwareCompatibilityLevel={TOOL_LEVELS.get(settings.hardware_compatible)}": (
            settings.hardware_compatible != "none"
        ),
        "--versionCompatible": settings.version_compatible,
        "--refit": settings.weights == "refit",
        "--stripWeights": settings.weights == "stripped",
        f"--computeCapabilities={','.join(name[2:] for name in settings.compute_capability)}": (
            bool(settings.compute_capability)
        ),
        f"--timingCacheFile={timing}": timing is not None,
    }
    return ["tensorrt_rtx" if api.rtx else "trtexec", *words, *(word for word, wanted in optional.items() if wanted)]
