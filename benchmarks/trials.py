"""What a way to prune costs on the embedded default: held-out loss at once, and after a short recovery.

Shared by the benchmarks that compare ways to prune. Everything is judged on images that neither scores nor recovery
have seen, with the same noise for every row, so that rows differ by what they compare alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin

from toolkit.core.environment import machine, versions
from toolkit.core.files import read_json, write_json
from toolkit.core.noise import normal
from toolkit.core.run_folder import RunFolder
from toolkit.data.images import Images
from toolkit.data.open import open_images, split
from toolkit.models.build import load_denoiser
from toolkit.models.folder import ModelFolder, find_model
from toolkit.models.save import save_model
from toolkit.models.schedulers import load_scheduler
from toolkit.pipeline.job import image_shape
from toolkit.pipeline.recover import recover
from toolkit.pruning.calibration import Calibration, held_out_loss
from toolkit.recovery.settings import RecoverSettings

JUDGED, TIMESTEPS = 256, 10
RECOVERY: dict[str, Any] = {
    "losses": {"noise": 1.0, "distillation": 1.0},  # not the default: features compare only where a plan is written
    "steps": 300,
    "batch_size": 16,
    "learning_rate": 2e-3,
    "checkpoint_every": 300,
    "keep_checkpoints": 1,
}


@dataclass(frozen=True)
class Trials:
    """The embedded default, its training images, and the batch that every row is judged on."""

    dense: ModelFolder
    train: Images
    judged: Calibration
    work: Path

    def loss(self, model: ModelMixin) -> float:
        """Mean squared error per element over ``TIMESTEPS`` timesteps of ``JUDGED`` images of 5,000-9,999."""
        return held_out_loss(model, self.judged, TIMESTEPS)

    def one_shot_and_recovered(self, name: str, pruned: ModelMixin, seed: int) -> dict[str, float]:
        """The losses of a pruned model before and after recovery; an interrupted recovery continues."""
        folder = self.work / name
        run = RunFolder.create(folder)
        if not (folder / "prune" / "model").is_dir():
            save_model(self.dense, pruned, folder / "prune" / "model")
        losses = {"one_shot": self.loss(pruned)}
        recover(run, RecoverSettings(**RECOVERY, seed=seed), self.dense, self.train)
        losses["recovered"] = self.loss(load_denoiser(find_model(folder / "model")))
        shutil.rmtree(folder)
        return losses


def trials(work: Path) -> Trials:
    """Open the embedded default; ``work`` holds what an interrupted benchmark continues from."""
    dense = find_model(None)
    train, reference = split(open_images(None, image_shape(dense)), holdout=0.5, seed=0)
    images = torch.from_numpy(reference.read(list(range(JUDGED))))
    noise = torch.from_numpy(normal("judged noise", 0, shape=tuple(images.shape)))
    work.mkdir(parents=True, exist_ok=True)
    return Trials(dense, train, Calibration(images, noise, load_scheduler(dense)), work)


Row = Mapping[str, Any]


def measure(
    output: Path, facts: Mapping[str, Any], wanted: Iterable[Row], row: Callable[[Row], dict[str, Any]]
) -> None:
    """Complete ``output`` row by row: what it already holds is not measured again."""
    found = (
        read_json(output) if output.is_file() else {"machine": machine(), "versions": versions(), **facts, "rows": []}
    )
    for case in wanted:
        if any(case.items() <= old.items() for old in found["rows"]):
            continue
        found["rows"].append({**case, **row(case)})
        write_json(output, found)
