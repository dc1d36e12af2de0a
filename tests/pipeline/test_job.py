"""What a run reads: the reference's classes are the training data's, whichever of them it has."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.tiny import tiny_folder
from toolkit.core.errors import DtkError
from toolkit.core.run_folder import RunFolder
from toolkit.pipeline import recipe
from toolkit.pipeline.job import Job


def job_of(root: Path, *, classes: int | None, train: str, reference: str) -> Job:
    """A run's job whose data are folders with these subfolders, two images each."""
    model = tiny_folder(root / "model", num_class_embeds=classes)
    for part, names in (("train", train), ("reference", reference)):
        for name in names.split():
            (root / part / name).mkdir(parents=True)
            for number in range(2):
                Image.fromarray(np.full((8, 8, 3), number, dtype=np.uint8)).save(root / part / name / f"{number}.png")
    data = {"source": str(root / "train"), "reference": str(root / "reference")}
    return Job(RunFolder(root / "run"), recipe.make({"model": str(model.root), "data": data}, "test"))


def test_a_class_has_one_id_in_both_halves(tmp_path: Path) -> None:
    job = job_of(tmp_path, classes=3, train="bird cat dog", reference="cat dog")
    assert job.examples.conditions("class", range(6)) == [0, 0, 1, 1, 2, 2]
    assert job.held_out.conditions("class", range(4)) == [1, 1, 2, 2]


def test_a_class_that_is_not_trained_on_is_refused_if_the_model_takes_classes(tmp_path: Path) -> None:
    with pytest.raises(DtkError, match=r"reference has classes[\s\S]*found: horse\n[\s\S]*bird, cat, dog"):
        _ = job_of(tmp_path / "one", classes=3, train="bird cat dog", reference="cat horse").examples
    job = job_of(tmp_path / "other", classes=None, train="bird cat dog", reference="cat horse")
    assert (len(job.examples), len(job.held_out)) == (6, 4)
