"""The exported step graph of a run: the denoiser with the sampler's update, and the coefficients of its steps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.errors import DtkError
from toolkit.files import file_sha256, read_json, value_sha256

CARRIED = {"sample", "timestep", "coefficients", "noise", "class_labels"}


@dataclass(frozen=True)
class StepGraph:
    """``(x_t, t, coefficients, ...) -> x_{t-1}`` as an ONNX file, described by the JSON beside it."""

    path: Path
    description: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> StepGraph:
        """The step graph at ``path``. Raises DtkError where it is absent, changed, or takes what no server here has."""
        if not path.is_file():
            raise DtkError(
                "This run has no exported step graph.", found=f"no {path}", do="export it again with `dtk export`"
            )
        graph = cls(path, read_json(path.with_suffix(".json")))
        for name, sha256 in graph.description["sha256"].items():
            if file_sha256(path.parent / name) != sha256:
                raise DtkError(f"{path.parent / name} is damaged or was changed.", do="export it again: `dtk export`")
        unknown = set(graph.description["inputs"]) - CARRIED
        if unknown:
            raise DtkError(
                "The server cannot feed this step graph.",
                found=f"inputs {', '.join(sorted(unknown))}",
                expected=f"only {', '.join(sorted(CARRIED))}",
            )
        return graph

    @property
    def file(self) -> str:
        return self.path.name

    @property
    def files(self) -> list[Path]:
        """The graph and, where it has external weights, their file."""
        return [self.path.parent / name for name in self.description["sha256"]]

    @property
    def sha256(self) -> str:
        return value_sha256(self.description)

    @property
    def image(self) -> tuple[int, ...]:
        """One image's shape (C, H, W)."""
        return tuple(self.description["inputs"]["sample"]["shape"][1:])

    @property
    def classes(self) -> int | None:
        """How many classes the model has, None if it takes none."""
        classes: int | None = self.description.get("classes")
        return classes

    @property
    def max_batch(self) -> int | None:
        """The largest batch it was exported for, None where any is taken."""
        largest: int | None = self.description.get("batch", {}).get("max")
        return largest

    @property
    def longest(self) -> int:
        """The most steps of a loop that the export has a table for."""
        return max(int(steps) for steps in self.description["schedules"])

    @property
    def facts(self) -> dict[str, Any]:
        """What a manifest tells about the engine."""
        return {name: self.description[name] for name in ("opset", "dtype", "sampler") if name in self.description}

    def schedule(self, max_steps: int) -> dict[str, Any]:
        """The server's schedule.json: timesteps and coefficients of every loop of 1 to ``max_steps`` steps."""
        stored = self.description["schedules"]
        return {
            "initial_sigma": self.description["initial_sigma"],
            "by_steps": {str(steps): stored[str(steps)] for steps in range(1, max_steps + 1)},
        }
