"""handoff.json: what was handed off, and what a server checks before it answers."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.core.environment import installed_version, machine, versions
from toolkit.core.errors import DtkError, MissingToolError, UsageError
from toolkit.core.files import folder_sha256, write_json
from toolkit.core.noise import sample_noise
from toolkit.handoff.components import Part
from toolkit.handoff.dtk_server.manifest import FILE, SCHEMA_VERSION, check_image
from toolkit.handoff.dtk_server.png import COLOUR_TYPES, encode
from toolkit.handoff.dtk_server.refusal import UnfitError
from toolkit.handoff.dtk_server.serving import Service
from toolkit.handoff.engines import Engine, entries, requirements
from toolkit.handoff.repository import GPU, REPOSITORY, write_deployment
from toolkit.handoff.settings import HandoffSettings
from toolkit.handoff.step_graph import StepGraph
from toolkit.handoff.triton import io_schema

KNOWN_SEED = 0
# Of the known image, in steps of 1/255, between a CPU and a GPU: bfloat16, emulated, came to 2.2 of them.
TOLERANCES = {"fp32": 2, "fp16": 2, "bf16": 8}
CUDA = "cuda-bindings>=12.8"  # the CUDA runtime's calls for a server without torch; one release serves older drivers
KNOWN_IMAGE = "expected.npy"
NUMPY = "1.24"  # the Philox and ziggurat streams are the same from there on; tried with 1.26 and 2.4


def onnxruntime_version() -> str:
    """The installed version of ONNX Runtime, under either of its two names. Raises MissingToolError for none."""
    installed = [version for name in ("onnxruntime", "onnxruntime-gpu") if (version := installed_version(name))]
    if not installed:
        raise MissingToolError("A handoff needs ONNX Runtime.", do='pip install ".[cpu]" or ".[gpu]"')
    return installed[0]


def openvino_version(settings: HandoffSettings) -> str:
    """The installed version of OpenVINO. Raises MissingToolError for none, UsageError if a GPU is to compute."""
    if settings.device != "cpu":
        raise UsageError("OpenVINO computes on the processor.", found=f"device {settings.device}", expected="cpu")
    installed = installed_version("openvino")
    if installed is None:
        raise MissingToolError(f"--runtime {settings.runtime} needs OpenVINO.", do='pip install ".[openvino]"')
    return installed


def check_here(version: Path, manifest: dict[str, Any], threads: int) -> None:
    """Raise DtkError if the server's own code does not make the known image here, in the runtime it is to have."""
    strict = manifest | {"step_graph": manifest["step_graph"] | {"fallback": "refuse"}}
    try:
        service = Service(version, strict, sample_noise, device="cpu", device_id=0, threads=threads)
        image = service.known_image(manifest["expected"]["seed"], manifest["expected"]["steps"])
        check_image(image, version.parent, manifest)
    except UnfitError as unfit:
        runtime = manifest["step_graph"]["runtime"]
        raise DtkError(
            f"The runtime {runtime} does not serve this model here.",
            found=unfit,
            do="choose another --runtime, or hand off on a processor like the server's",
        ) from unfit


def store_known_image(version: Path, manifest: dict[str, Any], threads: int) -> None:
    """Store the image of seed 0 as the server's own code makes it here: uint8 (C, H, W), and as PNG if it can be.

    Raises DtkError for a graph that ONNX Runtime does not compute on a processor, such as one in bfloat16.
    """
    everywhere = manifest | {"step_graph": manifest["step_graph"] | {"runtime": "onnxruntime"}}
    try:
        service = Service(version, everywhere, sample_noise, device="cpu", device_id=0, threads=threads)
    except UnfitError as unfit:
        raise DtkError(
            "ONNX Runtime does not make the known image of this export, by which a server checks itself.",
            found=unfit,
            do="dtk export RUN --dtype fp16; OpenVINO and TensorRT may still compute that in bfloat16",
        ) from unfit
    image = service.known_image(manifest["expected"]["seed"], manifest["expected"]["steps"])
    np.save(version / KNOWN_IMAGE, image, allow_pickle=False)
    if len(image) in COLOUR_TYPES:
        (version / "expected.png").write_bytes(encode(image / 255))


def write_manifest(
    folder: Path,
    version: Path,
    graph: StepGraph,
    settings: HandoffSettings,
    max_batch: int,
    engines: Sequence[Engine] = (),
) -> dict[str, Any]:
    """Write the files around the repository, then handoff.json: once for people, once next to the model it checks."""
    served = list(graph.served(settings))
    packages = {"onnxruntime": onnxruntime_version()}
    packages |= {"openvino": openvino_version(settings)} if settings.runtime.startswith("openvino") else {}
    packages |= {"tokenizers": version_of("tokenizers")} if graph.tokenizers else {}
    write_deployment(folder, _words(settings, packages, engines))
    manifest: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "target": settings.to,
        "repository": REPOSITORY,
        "model": settings.name,
        "image": list(graph.image),
        "latent": list(graph.sample) if graph.decoder else None,
        **io_schema(graph),
        "limits": {
            "max_batch": max_batch,
            "max_steps": settings.max_steps,
            "default_steps": settings.default_steps,
            "steps": None if len(served) == settings.max_steps else served,
            "classes": None if graph.tokenizers else graph.classes,
            "prompt_bytes": settings.max_prompt_bytes if graph.tokenizers else None,
            "max_guidance": settings.max_guidance if graph.guided else None,
            "default_guidance": settings.default_guidance,
        },
        "queue": {"max_size": settings.max_queue_size, "timeout_ms": settings.queue_timeout_ms},
        "step_graph": {
            "runtime": settings.runtime,
            "file": graph.file,
            "engines": entries(engines, graph.path),
            "fallback": settings.fallback,
            **graph.facts,
        },
        "decoder": _part(graph.decoder, engines),
        "conditioner": graph.conditions and graph.conditions | (_part(graph.conditioner, engines) or {}),
        "requires": {"numpy": NUMPY, **packages},
        "compute_capability": sorted({name for engine in engines for name in engine.capabilities}) or None,  # ONNX: any
        "container": settings.container,
        "expected": {
            "seed": KNOWN_SEED,
            "steps": settings.default_steps,
            "condition": "" if graph.tokenizers else (None if graph.classes is None else 0),
            "file": (version / KNOWN_IMAGE).relative_to(folder).as_posix(),
            "tolerance": tolerance(settings, graph),
        },
        "made_with": versions() | {"machine": machine()},
    }
    store_known_image(version, manifest, settings.threads)
    if "openvino" in packages:
        check_here(version, manifest, settings.threads)
    manifest["files"] = folder_sha256(folder)
    write_json(folder / FILE, manifest)
    shutil.copyfile(folder / FILE, version / FILE)
    return manifest


def _part(part: Part | None, engines: Sequence[Engine]) -> dict[str, Any] | None:
    """How the server runs a graph beside the step graph."""
    if part is None:
        return None
    return {"file": part.path.name, "engines": entries(engines, part.path)}


def tolerance(settings: HandoffSettings, graph: StepGraph) -> int:
    """How far the known image may be off: as the settings say, else by the precision of the step graph."""
    computed_in = settings.runtime.partition(":")[2] or graph.description.get("dtype", "fp32")
    by_dtype = TOLERANCES.get(computed_in, TOLERANCES["fp32"])
    return by_dtype if settings.tolerance is None else settings.tolerance


def _words(settings: HandoffSettings, packages: dict[str, str], engines: Sequence[Engine]) -> dict[str, str]:
    """What the files around the repository are filled in with."""
    on_gpu = settings.device == "gpu"
    named = {f"{name}-gpu" if on_gpu and name == "onnxruntime" else name: v for name, v in packages.items()}
    named |= requirements(engines)
    pinned = [f"{name}=={number}" for name, number in named.items()] + ([CUDA] if engines else [])
    limits = ("max_steps", "default_steps", "max_queue_size", "max_guidance", "default_guidance", "max_prompt_bytes")
    return {
        "name": settings.name,
        "container": settings.container,
        "runtime": ", ".join(f"{name} {number}" for name, number in named.items()),
        "packages": " ".join(f'"{package}"' for package in pinned),
        "engines": _engines(settings, engines),
        **(GPU if on_gpu else dict.fromkeys(GPU, "")),
        **{name: str(getattr(settings, name)) for name in limits},
    }


def _engines(settings: HandoffSettings, engines: Sequence[Engine]) -> str:
    if not engines:
        return ""
    files = ", ".join(f"`{engine.file}`" for engine in engines)
    otherwise = "does not load" if settings.fallback == "refuse" else "serves the ONNX file, and its log says so"
    return f"\n\nTensorRT engines: {files}. The first that the GPU can run serves; if none can, the server {otherwise}."
