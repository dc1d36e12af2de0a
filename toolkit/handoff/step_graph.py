"""The exported step graph of a run: the denoiser with the sampler's update, and the coefficients of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit.core.errors import DtkError
from toolkit.core.files import file_sha256, read_json, value_sha256
from toolkit.handoff.components import CONDITIONER, DECODER, Part, check_files
from toolkit.handoff.settings import HandoffSettings

CONTEXT, LABELS, SCALE = "encoder_hidden_states", "class_labels", "guidance_scale"
CONDITIONS = (CONTEXT, LABELS, "text_embeds", "time_ids")
NULLS = tuple(f"unconditional_{name}" for name in CONDITIONS)
REFINER_IDS = 5  # sizes, crop, aesthetic score; SDXL itself has six ids
CARRIED = {"sample", "timestep", "coefficients", "noise", SCALE, *CONDITIONS, *NULLS}


@dataclass(frozen=True)
class StepGraph:
    """``(x_t, t, coefficients, ...) -> x_{t-1}`` as an ONNX file, described by the JSON next to it.

    Of a latent model there is also a ``decoder``, of one with a context a ``conditioner``, each None unless the export
    wrote it next to the step graph.
    """

    path: Path
    description: dict[str, Any]
    decoder: Part | None = None
    conditioner: Part | None = None

    @classmethod
    def read(cls, path: Path) -> StepGraph:
        """The step graph at ``path``. Raises DtkError if it is absent, changed, or takes what no server here has."""
        if not path.is_file():
            raise DtkError(
                "This run has no exported step graph.", found=f"no {path}", do="export it again with `dtk export`"
            )
        parts = [Part.read(path.parent / name) for name in (DECODER, CONDITIONER)]
        graph = cls(path, read_json(path.with_suffix(".json")), *parts)
        check_files(path.parent, graph.description)
        unknown = set(graph.description["inputs"]) - CARRIED
        if unknown:
            raise DtkError(
                "The server cannot feed this step graph.",
                found=f"inputs {', '.join(sorted(unknown))}",
                expected=f"only {', '.join(sorted(CARRIED))}",
            )
        ids = graph.description["inputs"].get("time_ids")
        if ids and ids["shape"][-1] == REFINER_IDS:
            raise DtkError(
                "A server samples from noise, and a refiner goes on from the latents of another model.",
                found=f"time_ids of {REFINER_IDS} numbers, which is SDXL's refiner",
                do="hand off the base model, and run the refiner in its stock pipeline",
            )
        if CONTEXT in graph.description["inputs"] and graph.conditioner is None:
            raise DtkError(
                "The server cannot make this step graph's context.",
                found=f"no {path.parent / CONDITIONER}",
                do="export a folder that holds the text encoder or the class embedding, with `components` on",
            )
        return graph

    @property
    def parts(self) -> list[Part]:
        """What there is of decoder and conditioner."""
        return [part for part in (self.decoder, self.conditioner) if part]

    @property
    def file(self) -> str:
        return self.path.name

    @property
    def files(self) -> list[Path]:
        """The graph and all that a server runs besides it, external weights included."""
        own = [self.path.parent / name for name in self.description["sha256"]]
        parts = [file for part in self.parts for file in part.files]
        return [*own, *parts, *self.tokenizers.values()]

    @property
    def tokenizers(self) -> dict[str, Path]:
        """The tokenizer of each input of the conditioner of captions; none of another."""
        return self.conditioner.tokenizers if self.conditioner else {}

    @property
    def sha256(self) -> str:
        parts = [part.description for part in self.parts]
        return value_sha256([self.description, parts, [file_sha256(path) for path in self.tokenizers.values()]])

    @property
    def sample(self) -> tuple[int, ...]:
        """The shape (C, H, W) of what the loop works on: an image, or a latent if there is a decoder."""
        return tuple(self.description["inputs"]["sample"]["shape"][1:])

    @property
    def image(self) -> tuple[int, ...]:
        """One image's shape (C, H, W)."""
        return tuple(self.decoder.description["image"]) if self.decoder else self.sample

    @property
    def classes(self) -> int | None:
        """How many classes a request may ask for, None if the model takes none."""
        if self.conditioner and not self.tokenizers:
            count: int = self.conditioner.description["classes"]
            return count
        classes: int | None = self.description.get("classes")
        return classes

    @property
    def guided(self) -> bool:
        """Whether it leads away from a null condition."""
        return SCALE in self.description["inputs"]

    @property
    def conditions(self) -> dict[str, Any] | None:
        """What makes the graph's conditioning inputs, as the server reads it; None if it takes none."""
        if self.conditioner is None:
            label = {"kind": "label", "null": self.classes, "guided": self.guided}
            return label if LABELS in self.description["inputs"] else None
        files = {name: path.name for name, path in self.tokenizers.items()}
        kind = {"kind": "caption", "null": ""} if files else {"kind": "class", "null": self.classes}
        inputs = {name: files.get(name) for name in self.conditioner.description["inputs"]}
        return kind | {"file": self.conditioner.path.name, "inputs": inputs, "guided": self.guided}

    @property
    def max_batch(self) -> int | None:
        """The largest batch it was exported for, None if any is taken."""
        largest: int | None = self.description.get("batch", {}).get("max")
        return largest

    @property
    def longest(self) -> int:
        """The most steps of a loop that the export has a table for."""
        return max(int(steps) for steps in self.description["schedules"])

    @property
    def taught(self) -> list[int]:
        """The numbers of steps the model was taught; empty if it may take any."""
        return list(self.description.get("taught", []))

    def served(self, settings: HandoffSettings) -> Sequence[int]:
        """The numbers of steps that a server takes: those taught, else all of a table up to the limit."""
        if self.taught and not settings.any_steps:
            return self.taught
        return [steps for steps in range(1, settings.max_steps + 1) if str(steps) in self.description["schedules"]]

    @property
    def facts(self) -> dict[str, Any]:
        """What a manifest says about it."""
        return {name: self.description[name] for name in ("opset", "dtype", "sampler") if name in self.description}

    def schedule(self, numbers: Sequence[int]) -> dict[str, Any]:
        """The server's schedule.json: timesteps and coefficients of the loops of these ``numbers`` of steps."""
        stored = self.description["schedules"]
        return {
            "initial_sigma": self.description["initial_sigma"],
            "by_steps": {str(steps): stored[str(steps)] for steps in numbers},
        }
