"""The evaluate stage: paired samples of both models, compared with each other and with real images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.data.images import Images
from toolkit.errors import DtkError
from toolkit.evaluation import similarity
from toolkit.evaluation.config import EvaluateSettings
from toolkit.evaluation.features import Extractor, open_extractor
from toolkit.evaluation.figures import Conditions, Figure
from toolkit.evaluation.frechet import frechet_distance
from toolkit.evaluation.grid import grid
from toolkit.evaluation.real import features_of, floor_images
from toolkit.evaluation.samples import SamplingPlan, sample_images
from toolkit.files import read_json, write_json
from toolkit.models import ModelFolder
from toolkit.progress import Progress, silent
from toolkit.run_folder import Request, Run

COLUMNS = 16  # pairs in the picture


@dataclass(frozen=True)
class Subjects:
    """Who is judged, and by what."""

    dense: ModelFolder
    compressed: ModelFolder
    reference: Images
    train: Images | None
    extractor: Extractor

    def hashes(self) -> dict[str, str]:
        return {
            "dense": self.dense.sha256,
            "compressed": self.compressed.sha256,
            "reference": self.reference.fingerprint,
            "train": self.train.fingerprint if self.train else "",
            "extractor": f"{self.extractor.name} {self.extractor.sha256}",
        }


@dataclass(frozen=True)
class Judged:
    """Everything the figures are made of: images uint8 (N, H, W, C) and features float32 (N, D), N on every side."""

    images: dict[str, np.ndarray]  # dense, compressed, reference
    features: dict[str, np.ndarray]  # dense, compressed, reference, and floor where there is one
    floor: str  # what the floor's images are, or why there is none
    conditions: Conditions


def evaluate(
    run: Run,
    settings: EvaluateSettings,
    dense: ModelFolder,
    compressed: ModelFolder,
    reference: Images,
    *,
    train: Images | None = None,
    extractor: Extractor | None = None,
    device: str = "cpu",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Judge ``compressed`` by ``dense`` and both by ``reference``; write RUN/evaluate and return its metrics.json.

    ``reference`` must hold no image either model was trained on. ``train`` holds those they were trained on: the floor
    is taken from them where the reference is too small. ``extractor`` takes the place of the one the settings name.
    Raises DtkError for too few reference images or models that do not match, MissingToolError without the extra
    ``metrics``.
    """
    reference.require(settings.images, "evaluation (reference images, which were not trained on)")
    _check_match(dense, compressed, reference)
    similarity.check_installed()
    extractor = extractor or open_extractor(settings.features, device)
    subjects = Subjects(dense, compressed, reference, train, extractor)
    request = Request("evaluate", settings.model_dump(exclude={"batch_size"}), subjects.hashes())
    if run.is_current(request):
        earlier: dict[str, Any] = read_json(run.path / "evaluate" / "metrics.json")
        return earlier
    with run.writing(request, device=device) as folder:
        judged = _judge(subjects, settings, run.path / "cache", device, progress)
        metrics = _metrics(settings, reference, judged)
        write_json(folder / "metrics.json", metrics)
        rows = {"dense": "dense", "compressed": "compressed", "real": "reference"}
        grid({label: judged.images[name][:COLUMNS] for label, name in rows.items()}).save(folder / "pairs.png")
    return metrics


def _check_match(dense: ModelFolder, compressed: ModelFolder, reference: Images) -> None:
    shapes = {key: (dense.config.get(key), compressed.config.get(key)) for key in ("in_channels", "sample_size")}
    if any(one != other for one, other in shapes.values()):
        raise DtkError(
            "The dense and the compressed model make images of different shapes, so they cannot be paired.",
            found="; ".join(f"{key} {one} and {other}" for key, (one, other) in shapes.items()),
            expected="a model and what was made of it",
        )
    if dense.config["out_channels"] not in (reference.shape[0], 2 * reference.shape[0]):
        raise DtkError(
            "The reference images do not have the model's number of channels.",
            found=f"{reference.shape[0]} channels",
            expected=f"{dense.config['out_channels']}",
        )


def _judge(subjects: Subjects, settings: EvaluateSettings, cache: Path, device: str, progress: Progress) -> Judged:
    count, extractor = settings.images, subjects.extractor
    plan = SamplingPlan(settings.sampler, settings.sampling_steps, settings.seed, settings.batch_size)
    images, features = {}, {}
    for name, model in {"dense": subjects.dense, "compressed": subjects.compressed}.items():
        images[name] = sample_images(
            model, plan, count, cache, device=device, progress=progress, work=f"sampling the {name} model"
        )
        features[name] = extractor(images[name], progress, f"features of the {name} model's images")
    real = subjects.reference.subset(range(count))
    images["reference"] = real.read_uint8(range(min(COLUMNS, count)))
    features["reference"] = features_of(real, extractor, cache, progress)
    floor, what = floor_images(subjects.reference, subjects.train, count)
    if floor is not None:
        features["floor"] = features_of(floor, extractor, cache, progress, "features of the floor's images")
    return Judged(images, features, what, Conditions(count, extractor.name, extractor.sha256, real.fingerprint))


def _metrics(settings: EvaluateSettings, reference: Images, judged: Judged) -> dict[str, Any]:
    pair = judged.images["dense"], judged.images["compressed"]
    return {
        "settings": settings.model_dump(exclude={"batch_size"}),
        "reference": {
            "source": reference.source,
            "images": len(reference),
            "preparation": reference.preparation,
            "skipped": list(reference.skipped),
        },
        "pairs": {
            "count": settings.images,
            "ssim": float(similarity.ssim(*pair).mean()),
            "ssim_window": similarity.ssim_window(*pair[0].shape[1:3]),
            "psnr_db": similarity.psnr_db(*pair),
        },
        "frechet_distance": _distances(judged),
    }


def _distances(judged: Judged) -> dict[str, Any]:
    real = judged.features["reference"]
    found = {name: frechet_distance(one, real) for name, one in judged.features.items() if name != "reference"}
    metric = f"FD ({judged.conditions.extractor})"
    figures: dict[str, Any] = {
        name: Figure(metric, value, judged.conditions).to_json() for name, value in found.items()
    }
    return figures | {"floor_images": judged.floor, "excess_ratio": excess_ratio(found)}


def excess_ratio(distances: dict[str, float]) -> float | None:
    """The compressed model's excess over the floor in units of the dense model's; None where that is not positive."""
    if "floor" not in distances or distances["dense"] <= distances["floor"]:
        return None
    return (distances["compressed"] - distances["floor"]) / (distances["dense"] - distances["floor"])
