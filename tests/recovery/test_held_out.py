"""The stopping curve: what it measures, that it changes nothing, and when it says that more would not show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import tiny_folder
from toolkit.core.files import read_json, write_json
from toolkit.core.noise import generator
from toolkit.core.run_folder import Request, RunFolder
from toolkit.data.images import Images
from toolkit.diffusion.objective import noisy
from toolkit.models.build import load_denoiser
from toolkit.models.folder import ModelFolder, find_model
from toolkit.models.schedulers import load_scheduler
from toolkit.pipeline.recover import recover
from toolkit.recovery.batches import Batches
from toolkit.recovery.held_out import stopping_curve
from toolkit.recovery.settings import RecoverSettings

PLAN = {"class": "UNet2DModel", "config": {}, "requested": {"criterion": "random"}, "groups": {}, "tensors": {}}
SETTINGS = RecoverSettings(steps=4, batch_size=8, warmup_steps=1, checkpoint_every=2, log_every=1)


def images(first: int, count: int) -> Images:
    pixels = generator("tiny images", 0).integers(0, 256, (first + count, 8, 8, 3), dtype=np.uint8)
    return Images("test", (3, 8, 8), "0" * 64, tuple(range(first, first + count)), lambda number: pixels[number])


def a_run(path: Path) -> tuple[RunFolder, ModelFolder]:
    dense = tiny_folder(path / "dense", seed=0)
    folder = RunFolder.create(path / "run")
    with folder.writing(Request("prune", {}, {})) as prune:
        tiny_folder(prune / "model", seed=1, block_out_channels=(8, 16, 16), norm_num_groups=4)
        write_json(prune / "plan.json", PLAN)
    return folder, dense


@pytest.mark.slow
def test_it_is_the_error_to_the_dense_model_and_changes_nothing(tmp_path: Path) -> None:
    judged, dense = a_run(tmp_path / "judged")
    plain, _ = a_run(tmp_path / "plain")
    held_out = images(40, 24)

    def stop(work: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recover(judged, SETTINGS, dense, images(0, 40), held_out=held_out, progress=stop)
    found = recover(judged, SETTINGS, dense, images(0, 40), held_out=held_out)["held_out"]
    recover(plain, SETTINGS, dense, images(0, 40))
    weights = [load_file(run.path / "model/unet/diffusion_pytorch_model.safetensors") for run in (judged, plain)]
    assert all(torch.equal(weights[1][name], tensor) for name, tensor in weights[0].items())
    assert found["steps"] == [0, 2, 4] and found["images"] == 24

    batch = Batches(held_out, 100, 0, flip=False)(range(24), torch.device("cpu"))
    x = noisy(load_scheduler(dense), batch.images, batch.noise, batch.t)
    models = [find_model(judged.path / place) for place in ("prune/model", "model")]
    with torch.no_grad():
        before, after, wanted = (load_denoiser(model)(x, batch.t).sample for model in (*models, dense))
    expected = [float((made - wanted).square().mean()) for made in (before, after)]
    assert [found["errors"][0], found["errors"][-1]] == pytest.approx(expected, rel=1e-4)
    assert len(read_json(judged.path / "recover" / "held_out.json")["4"]) == 24


@pytest.mark.parametrize(
    ("last", "words"),
    [(0.5, "steps 50 to 100 changed the held-out error by -50.0%"), (0.5, "more would show"), (0.99, "hardly show")],
)
def test_it_says_whether_more_would_show(last: float, words: str, tmp_path: Path) -> None:
    of_image = np.linspace(0.5, 1.5, 64)
    path = tmp_path / "held_out.json"
    assert stopping_curve(path) is None
    write_json(path, {str(step): list(of_image * error) for step, error in ((0, 9.0), (50, 1.0), (100, last))})
    found = stopping_curve(path)
    assert found is not None and words in found["verdict"]


@pytest.mark.parametrize("errors", [[1.0], [0.0, 0.0]])
def test_of_one_image_or_without_an_error_nothing_is_said(errors: list[float], tmp_path: Path) -> None:
    path = tmp_path / "held_out.json"
    write_json(path, {str(step): errors for step in (0, 50, 100)})
    assert stopping_curve(path) is None
