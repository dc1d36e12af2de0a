"""handoff.json: what was handed off, and what a server checks before it answers."""

from __future__ import annotations

import shutil
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.environment import machine, versions
from toolkit.files import folder_sha256, write_json
from toolkit.handoff.config import HandoffSettings
from toolkit.handoff.dtk_server.manifest import FILE, SCHEMA_VERSION
from toolkit.handoff.dtk_server.png import COLOUR_TYPES, encode
from toolkit.handoff.dtk_server.serving import Service
from toolkit.handoff.repository import REPOSITORY, write_surroundings
from toolkit.handoff.step_graph import StepGraph
from toolkit.handoff.triton import io_schema
from toolkit.noise import sample_noise

KNOWN_SEED = 0
KNOWN_IMAGE = "expected.npy"
NUMPY = "1.24"  # the Philox and ziggurat streams are the same from there on; tried with 1.26 and 2.4


def store_known_image(version: Path, manifest: dict[str, Any], threads: int) -> None:
    """Store the image of seed 0 as the server's own code makes it here: uint8 (C, H, W), and as PNG where it can be."""
    service = Service(version, manifest, sample_noise, device="cpu", device_id=0, threads=threads)
    image = service.known_image(manifest["expected"]["seed"], manifest["expected"]["steps"])
    np.save(version / KNOWN_IMAGE, image, allow_pickle=False)
    if len(image) in COLOUR_TYPES:
        (version / "expected.png").write_bytes(encode(image / 255))


def write_manifest(
    folder: Path, version: Path, graph: StepGraph, settings: HandoffSettings, max_batch: int
) -> dict[str, Any]:
    """Write the files around the repository, then handoff.json: once for people, once beside the model it checks."""
    runtime = installed("onnxruntime")
    packages = {"onnxruntime": runtime} | ({"tokenizers": installed("tokenizers")} if graph.tokenizer else {})
    pinned = " ".join(f'"{name}=={number}"' for name, number in packages.items())
    values = {"name": settings.name, "container": settings.container, "onnxruntime": runtime, "packages": pinned}
    write_surroundings(folder, {**values, **_limits(settings)})
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
            "classes": None if graph.tokenizer else graph.classes,
            "prompt_bytes": settings.max_prompt_bytes if graph.tokenizer else None,
            "max_guidance": settings.max_guidance if graph.guided else None,
            "default_guidance": settings.default_guidance,
        },
        "queue": {"max_size": settings.max_queue_size, "timeout_ms": settings.queue_timeout_ms},
        "engine": {"runtime": "onnxruntime", "file": graph.file, **graph.facts},
        "decoder": {"file": graph.decoder.path.name, "input": graph.decoder.input} if graph.decoder else None,
        "conditioner": graph.conditions,
        "requires": {"numpy": NUMPY, **packages},
        "compute_capability": None,  # an ONNX graph runs on any; a TensorRT plan would name its own
        "container": settings.container,
        "expected": {
            "seed": KNOWN_SEED,
            "steps": settings.default_steps,
            "condition": "" if graph.tokenizer else (None if graph.classes is None else 0),
            "file": (version / KNOWN_IMAGE).relative_to(folder).as_posix(),
            "tolerance": settings.tolerance,
        },
        "made_with": versions() | {"machine": machine()},
    }
    store_known_image(version, manifest, settings.threads)
    manifest["files"] = folder_sha256(folder)
    write_json(folder / FILE, manifest)
    shutil.copyfile(folder / FILE, version / FILE)
    return manifest


def _limits(settings: HandoffSettings) -> dict[str, str]:
    names = ("max_steps", "default_steps", "max_queue_size", "max_guidance", "default_guidance", "max_prompt_bytes")
    return {name: str(getattr(settings, name)) for name in names}
