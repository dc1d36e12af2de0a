"""The figures of an evaluation, each with what it depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np

from toolkit.evaluation import similarity
from toolkit.evaluation.artefact import Artefact
from toolkit.evaluation.distances import Distance, block_intervals, frechet_distance, interval, kernel_distance
from toolkit.evaluation.judging import (
    Judged,
    Resources,
    Subjects,
    features_of,
    sample_features,
    samples_of,
    sampling_settings,
)
from toolkit.evaluation.measurements import Measurement
from toolkit.evaluation.neighbours import NEIGHBOUR, precision_recall
from toolkit.evaluation.settings import EvaluateSettings

SIDES = ("dense", "compressed", "floor")


def pair_metrics(dense: np.ndarray, compressed: np.ndarray) -> dict[str, Any]:
    """How near the compressed model's images are to the dense model's of the same noise, uint8 (N, H, W, C)."""
    ssim = similarity.ssim(dense, compressed)
    return {
        "count": len(dense),
        "ssim": float(ssim.mean()),
        "ssim_interval": asdict(interval(ssim)),
        "ssim_window": similarity.ssim_window(*dense.shape[1:3]),
        "psnr_db": similarity.psnr_db(dense, compressed),
    }


def real_metrics(judged: Judged) -> dict[str, Any]:
    """Distances, precision and recall against real images, for both models and the floor."""
    frechet = _distances("FD", frechet_distance, judged)
    values = {name: frechet[name]["value"] for name in _sides(judged)}
    frechet |= {"floor_images": judged.floor, "excess_ratio": excess_ratio(values)}
    metrics = {"frechet_distance": frechet, "kernel_distance": _distances("KD", kernel_distance, judged)}
    return metrics | _precision_recall(judged)


def artefact_metrics(
    artefact: Artefact, subjects: Subjects, settings: EvaluateSettings, place: Resources, metrics: Mapping[str, Any]
) -> dict[str, Any]:
    """The figures of an artefact of the compressed model, next to ``metrics``, those of both models in torch.

    It samples from the same noise; the models' own samples are read from the cache.
    """
    made = samples_of("compressed", subjects, settings, place, artefact)
    real = features_of(subjects.reference.subset(range(settings.images)), subjects.extractor, place)
    features = sample_features(made, subjects.extractor, place, f"features of the images of {artefact.name}")
    figures: dict[str, Any] = {"sha256": artefact.sha256, "loop": artefact.loop(sampling_settings(settings))}
    figures["device"] = artefact.device(place.device)
    for name, distance in (("frechet_distance", frechet_distance), ("kernel_distance", kernel_distance)):
        figures[name] = metrics[name]["dense"] | {"value": distance(features, real)}
    of_models = {name: entry["value"] for name, entry in metrics["frechet_distance"].items() if name in SIDES}
    figures["excess_ratio"] = excess_ratio(of_models | {"compressed": figures["frechet_distance"]["value"]})
    pairs = {name: pair_metrics(samples_of(name, subjects, settings, place), made) for name in subjects.models}
    return figures | {"pairs": pairs}


def excess_ratio(distances: Mapping[str, float]) -> float | None:
    """The compressed model's excess over the floor in units of the dense model's; None if that is not positive."""
    if "floor" not in distances or distances["dense"] <= distances["floor"]:
        return None
    return (distances["compressed"] - distances["floor"]) / (distances["dense"] - distances["floor"])


def _sides(judged: Judged) -> dict[str, np.ndarray]:
    return {name: features for name, features in judged.features.items() if name != "reference"}


def _distances(metric: str, distance: Distance, judged: Judged) -> dict[str, Any]:
    real, sides = judged.features["reference"], _sides(judged)
    values = {name: distance(features, real) for name, features in sides.items()}
    return _figures(metric, values, judged) | {"intervals": block_intervals(distance, sides, real)}


def _precision_recall(judged: Judged) -> dict[str, Any]:
    real, sides = judged.features["reference"], _sides(judged)
    if len(real) <= NEIGHBOUR:
        return {}
    by_side = {name: asdict(precision_recall(features, real)) for name, features in sides.items()}
    return {
        metric: _figures(f"{metric}, k = {NEIGHBOUR}", {name: one[metric] for name, one in by_side.items()}, judged)
        for metric in ("precision", "recall")
    }


def _figures(metric: str, values: dict[str, float], judged: Judged) -> dict[str, Any]:
    name = f"{metric} ({judged.conditions.extractor})"
    return {side: Measurement(name, value, judged.conditions).to_json() for side, value in values.items()}
