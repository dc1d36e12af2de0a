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
from toolkit.handoff.dtk_server.engine import OnnxRuntimeEngine
from toolkit.handoff.dtk_server.loop import Loop
from toolkit.handoff.dtk_server.manifest import FILE, SCHEMA_VERSION
from toolkit.handoff.dtk_server.png import encode, to_uint8
from toolkit.handoff.dtk_server.request import Wish
from toolkit.handoff.dtk_server.schedule import Schedule
from toolkit.handoff.repository import REPOSITORY, write_surroundings
from toolkit.handoff.step_graph import StepGraph
from toolkit.handoff.triton import io_schema
from toolkit.noise import sample_noise

KNOWN_SEED = 0
NUMPY = "1.24"  # the Philox and ziggurat streams are the same from there on; tried with 1.26 and 2.4


def known_image(version: Path, graph: StepGraph, settings: HandoffSettings, max_batch: int) -> None:
    """Store the image of seed 0 as the server's own loop makes it here, uint8 (C, H, W), and as PNG where it can be."""
    engine = OnnxRuntimeEngine(
        version / graph.file, device="cpu", device_id=0, threads=settings.threads, image=graph.image, batch=max_batch
    )
    loop = Loop(engine, Schedule.read(version / "schedule.json"), graph.image, sample_noise)
    conditioning = {} if graph.classes is None else {"class_labels": np.array(0, np.int64)}
    (image,) = loop.sample([Wish(KNOWN_SEED, settings.default_steps, conditioning)])
    np.save(version / "expected.npy", to_uint8(image), allow_pickle=False)
    if graph.image[0] in (1, 3):
        (version / "expected.png").write_bytes(encode(image))


def write_manifest(
    folder: Path, version: Path, graph: StepGraph, settings: HandoffSettings, max_batch: int
) -> dict[str, Any]:
    """Write the files around the repository, then handoff.json: once for people, once beside the model it checks."""
    runtime = installed("onnxruntime")
    write_surroundings(
        folder, {"name": settings.name, "container": settings.container, "onnxruntime": runtime, **_limits(settings)}
    )
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "target": settings.to,
        "repository": REPOSITORY,
        "model": settings.name,
        "image": list(graph.image),
        **io_schema(graph),
        "limits": {
            "max_batch": max_batch,
            "max_steps": settings.max_steps,
            "default_steps": settings.default_steps,
            "classes": graph.classes,
        },
        "queue": {"max_size": settings.max_queue_size, "timeout_ms": settings.queue_timeout_ms},
        "engine": {"runtime": "onnxruntime", "file": graph.file, **graph.facts},
        "requires": {"numpy": NUMPY, "onnxruntime": runtime},
        "compute_capability": None,  # an ONNX graph runs on any; a TensorRT plan would name its own
        "container": settings.container,
        "expected": {
            "seed": KNOWN_SEED,
            "steps": settings.default_steps,
            "file": (version / "expected.npy").relative_to(folder).as_posix(),
            "tolerance": settings.tolerance,
        },
        "made_with": versions() | {"machine": machine()},
        "files": folder_sha256(folder),
    }
    write_json(folder / FILE, manifest)
    shutil.copyfile(folder / FILE, version / FILE)
    return manifest


def _limits(settings: HandoffSettings) -> dict[str, str]:
    return {name: str(getattr(settings, name)) for name in ("max_steps", "default_steps", "max_queue_size")}
