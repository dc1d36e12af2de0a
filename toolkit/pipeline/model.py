"""The result of a run: a stock diffusers folder of what its stages made."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from toolkit.core.files import read_json, replacing, value_sha256, write_json
from toolkit.core.run_folder import MODEL, RunFolder
from toolkit.models.autoencoder import PLACES

STAGE, AUTOENCODER = "decoder", "autoencoder"


def publish_model(run: RunFolder, write: Callable[[Path], object]) -> None:
    """Let ``write`` make RUN/model; its autoencoder becomes the one with the compressed decoder, if there is one."""
    with replacing(run.path / MODEL) as folder:
        write(folder)
        if run.stage(STAGE) is not None:
            _replace_autoencoder(folder, run.path / STAGE / AUTOENCODER)


def _replace_autoencoder(model: Path, autoencoder: Path) -> None:
    place = next(name for name in PLACES if (model / name).is_dir())
    shutil.rmtree(model / place)
    shutil.copytree(autoencoder, model / place)
    index = model / "model_index.json"
    if index.is_file():
        class_name = read_json(autoencoder / "config.json")["_class_name"]
        write_json(index, read_json(index) | {place: ["diffusers", class_name]})


def decoder_inputs(run: RunFolder) -> dict[str, str]:
    """The hash of the run's compressed decoder, as an input of what publishes it; empty if there is none."""
    record = run.stage(STAGE)
    return {} if record is None else {STAGE: value_sha256(record["outputs"])}
