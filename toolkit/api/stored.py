"""Models and data from memory, stored in a run folder, so that the run can be repeated and resumed again.

Each is stored under a name with its hash: what a refused call was given takes the place of nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import DDPMPipeline, DiffusionPipeline, ModelMixin, UNet2DModel

from toolkit.adapters.base import adapter_of
from toolkit.api.models import Model
from toolkit.core.errors import UsageError
from toolkit.core.files import file_sha256, folder_sha256, replacing, value_sha256
from toolkit.core.progress import Progress
from toolkit.core.run_folder import RunFolder
from toolkit.data.arrays import ABSENT
from toolkit.data.conditions import COLUMNS, Condition
from toolkit.data.memory import ArrayExamples, Data, ValueRange, open_examples
from toolkit.models.autoencoder import image_shape
from toolkit.models.folder import ModelFolder

DENSE, DATA = "dense", "data"


def stored_model(model: Model, scheduler: Any, run: Path) -> str | None:
    """The path or hub id of a model; one in memory is written to RUN/dense-HASH, a stock folder.

    Raises UsageError for a denoiser without a scheduler.
    """
    if not isinstance(model, ModelMixin | DiffusionPipeline):
        return None if model is None else str(model)
    if isinstance(model, ModelMixin) and scheduler is None:
        raise UsageError(
            "A denoiser by itself does not say its noise levels.", do="give scheduler=, the one it was trained with"
        )

    def write(folder: Path) -> None:
        if isinstance(model, UNet2DModel):
            DDPMPipeline(model, scheduler).save_pretrained(folder, safe_serialization=True)
        elif isinstance(model, DiffusionPipeline):
            model.save_pretrained(folder, safe_serialization=True)
        else:
            component = adapter_of(type(model).__name__).component
            model.save_pretrained(folder / component, safe_serialization=True)
            scheduler.save_pretrained(folder / "scheduler")

    return _stored(run, DENSE, "", write)


def stored_data(
    data: Data,
    model: ModelFolder,
    value_range: ValueRange | None,
    conditions: Sequence[Condition] | None,
    run: Path,
    progress: Progress,
) -> str | None:
    """The path or hub id of data; images in memory are written to RUN/data-HASH.npz, 8 bits per channel."""
    if data is None or isinstance(data, str | Path):
        return None if data is None else str(data)
    if value_range == "latents":
        raise UsageError("A run trains and judges on images.", found="latents", do="give images, or use prune()")
    examples = open_examples(data, image_shape(model), value_range, conditions, progress)
    assert isinstance(examples, ArrayExamples), "what lies in memory is read into memory"
    arrays = {"images": ((examples.items + 1) * 127.5).round().clip(0, 255).astype(np.uint8)}
    for kind, values in examples.values.items():
        arrays[COLUMNS[kind][0]] = np.array([ABSENT[kind] if value is None else value for value in values])

    def write(path: Path) -> None:
        with path.open("wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **arrays)

    return _stored(run, DATA, ".npz", write)


def stored_in(run: Path) -> list[Path]:
    """Every model and data from memory that lie in the run folder."""
    return [*run.glob(f"{DENSE}-*"), *run.glob(f"{DATA}-*.npz")]


def remove_unused(run: Path, used: Sequence[Path]) -> None:
    """Remove what was stored for an earlier recipe of the run, or for a call that was refused."""
    for stored in set(stored_in(run)) - set(used):
        shutil.rmtree(stored) if stored.is_dir() else stored.unlink()


def _stored(run: Path, name: str, suffix: str, write: Callable[[Path], None]) -> str:
    """Let ``write`` make a file or folder, and name it by what is in it."""
    RunFolder.create(run)
    new = run / f"{name}.new"
    with replacing(new) as temporary:
        write(temporary)
    content = folder_sha256(new) if new.is_dir() else file_sha256(new)
    place = run / f"{name}-{value_sha256(content)[:12]}{suffix}"
    with replacing(place) as temporary:
        new.rename(temporary)
    return str(place)
