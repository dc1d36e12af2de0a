"""TensorRT engines of a run's step graph and of what stands around it, side by side for several architectures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.core.errors import DtkError, UsageError
from toolkit.core.files import file_sha256, files_sha256, read_json
from toolkit.handoff.components import Part
from toolkit.handoff.settings import HandoffSettings
from toolkit.handoff.step_graph import StepGraph

PACKAGES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}  # import name: name in the package index


@dataclass(frozen=True)
class Engine:
    """An engine of ``graph`` (the step graph, the decoder, the conditioner) with the JSON of the export next to it."""

    path: Path
    description: dict[str, Any]
    graph: str

    @classmethod
    def read(cls, path: Path, graph: StepGraph | Part) -> Engine:
        """The engine at ``path``. Raises DtkError if it is absent, damaged, or of another graph than ``graph``."""
        if not path.is_file() or not path.with_suffix(".json").is_file():
            raise DtkError(
                f"There is no TensorRT engine {path} with its .json next to it.",
                do="dtk export RUN --trt builds it; on another machine, copy both files",
            )
        engine = cls(path, read_json(path.with_suffix(".json")), graph.path.stem)
        if file_sha256(path) != engine.description["sha256"]:
            raise DtkError(f"{path} is damaged or was changed.", do="dtk export RUN --trt builds it again")
        if engine.facts["onnx"] != files_sha256(graph.description["sha256"]):
            raise DtkError(f"{path} is an engine of another graph than {graph.path}.", do="dtk export RUN --trt")
        if engine.smallest > 1:
            raise DtkError(
                f"{path} does not take a single image.",
                found=f"batch {engine.facts['batch']}",
                expected="a range from 1: images leave a batch when their steps are done",
                do="dtk export RUN --trt --batch 1:8:64",
            )
        return engine

    @property
    def facts(self) -> dict[str, Any]:
        """What it was built from, with and for."""
        facts: dict[str, Any] = self.description["facts"]
        return facts

    @property
    def smallest(self) -> int:
        return int(self.facts["batch"].split(":")[0])

    @property
    def largest(self) -> int:
        return int(self.facts["batch"].split(":")[2])

    @property
    def capabilities(self) -> list[str]:
        """The compute capabilities it was built for; none if TensorRT for RTX chose them itself, or for all of them."""
        if self.facts["builder"] == "tensorrt_rtx":
            return list(self.facts["targets"])
        return [] if self._level == "ampere" else [self.facts["gpu_capability"]]

    @property
    def _level(self) -> str:
        return str(self.facts.get("hardware_compatible", "none"))

    @property
    def gpu(self) -> str | None:
        """The one model of GPU it runs on; None for one that runs on several."""
        own = self.facts["builder"] == "tensorrt" and self._level == "none"
        return str(self.facts["gpu"]) if own else None

    @property
    def file(self) -> str:
        """Its name on the server: graph, builder, architectures, and the model of GPU if it is for one alone."""
        place = [re.sub(r"[^a-z0-9]+", "-", self.gpu.lower())] if self.gpu else []
        wide = ["ampere"] if self._level == "ampere" else []
        return ".".join([self.graph, self.facts["builder"], *self.capabilities, *place, *wide, "plan"])

    def entry(self) -> dict[str, Any]:
        """What the manifest says of it."""
        built = {"package": self.facts["builder"], "version": self.facts["version"], "batch": self.facts["batch"]}
        place = {"compute_capability": self.capabilities, "gpu": self.gpu, "built_on": self.facts["gpu"]}
        options = {"hardware_compatible": self._level, "stripped": self.facts.get("weights") == "stripped"}
        options |= {"version_compatible": self.facts.get("version_compatible", False)}
        return {"file": self.file, **built, **place, **options}


def entries(engines: Sequence[Engine], graph: Path) -> list[dict[str, Any]]:
    """What the manifest says of the engines of a graph."""
    return [engine.entry() for engine in engines if engine.graph == graph.stem]


def find_engines(run: Path, settings: HandoffSettings, graph: StepGraph) -> list[Engine]:
    """The engines to hand off: the run's own and those of the settings; none if ONNX Runtime serves.

    Next to each engine of the step graph may lie those of the decoder and of the conditioner. Raises UsageError for
    settings that contradict each other, DtkError for an engine that does not fit.
    """
    if settings.runtime != "tensorrt":
        if settings.engines:
            raise UsageError("Only --runtime tensorrt carries engines.", found=f"runtime {settings.runtime}")
        return []
    if settings.device != "gpu":
        raise UsageError("A TensorRT engine runs on a GPU.", found=f"device {settings.device}", do="add --device gpu")
    own = run / "tensorrt" / graph.path.with_suffix(".plan").name
    paths = [*([own] if own.is_file() or not settings.engines else []), *settings.engines]
    engines = [Engine.read(path, graph) for path in paths]
    around = [(path.with_name(f"{part.path.stem}.plan"), part) for path in paths for part in graph.parts]
    engines += [Engine.read(path, part) for path, part in around if path.is_file()]
    names = [engine.file for engine in engines]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError("Two engines are for the same builder and architectures.", found=", ".join(twice))
    for package in PACKAGES:
        versions = sorted({engine.facts["version"] for engine in engines if engine.facts["builder"] == package})
        if len(versions) > 1:
            raise UsageError(
                f"The engines need different versions of {package}, and an image holds one.", found=", ".join(versions)
            )
    return engines


def requirements(engines: Sequence[Engine]) -> dict[str, str]:
    """The packages, by their names in the index, that a server with these engines needs."""
    return {PACKAGES[engine.facts["builder"]]: engine.facts["version"] for engine in engines}
