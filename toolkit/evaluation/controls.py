"""The control that a compressed model must beat: the dense one, in fewer steps, at the same cost."""

from __future__ import annotations

from typing import Any

import numpy as np

from profiles.macs import count_macs
from toolkit.adapters.inputs import example_inputs
from toolkit.evaluation.distances import frechet_distance
from toolkit.evaluation.judging import Judged, Resources, Subjects, sample_features, sampling_settings
from toolkit.evaluation.samples import own_plan, sample_images
from toolkit.evaluation.settings import EvaluateSettings
from toolkit.models.conditioning import denoiser_inputs
from toolkit.models.folder import build_model

Curve = list[tuple[float, float]]  # (cost of an image in dense steps, distance), by rising cost


def fewer_steps(subjects: Subjects, settings: EvaluateSettings, judged: Judged, place: Resources) -> dict[str, Any]:
    """Distance against cost for both models, where the two curves cross, and which is better at equal cost.

    The compressed model takes all, half and a quarter of the steps, the dense model as many as cost the same; both also
    stand at the full number. Cost is counted in MACs.
    """
    ratio, full = macs_ratio(subjects), sampling_settings(settings).steps
    own = own_plan(subjects.compressed, sampling_settings(settings)).steps
    steps = steps_of_controls(full, ratio, own)
    curves = {name: [_point(name, taken, subjects, settings, judged, place) for taken in steps[name]] for name in steps}
    costs = {"dense": 1.0, "compressed": ratio}
    points = {name: [(taken * costs[name], value) for taken, value in curve] for name, curve in curves.items()}
    crossed = crossings(points["compressed"], points["dense"])
    return {
        "macs_ratio": ratio,
        "curves": {
            name: [
                {"steps": taken, "cost_in_dense_steps": taken * costs[name], "frechet_distance": value}
                for taken, value in curve
            ]
            for name, curve in curves.items()
        },
        "crossings_in_dense_steps": crossed,
        "verdict": f"{_verdict(own * ratio, points)}; {_crossed(crossed, points)}",
    }


def steps_of_controls(full: int, ratio: float, own: int) -> dict[str, list[int]]:
    """The numbers of steps each model is sampled in, rising; ``ratio``: MACs compressed over dense.

    A compressed model that was taught its ``own`` number of steps takes only those, and the dense one also as many as
    cost twice as much.
    """
    compressed = sorted({max(1, full // part) for part in (1, 2, 4)}) if own == full else [own]
    paid = compressed if own == full else [own, 2 * own]
    return {"dense": sorted({full} | {max(1, round(taken * ratio)) for taken in paid}), "compressed": compressed}


def macs_ratio(subjects: Subjects) -> float:
    """MACs of one call of the compressed denoiser over the dense one's."""
    macs = [
        count_macs(
            build_model(model.class_name, model.config), example_inputs(denoiser_inputs(model), 1, device="meta")
        ).macs
        for model in (subjects.compressed, subjects.dense)
    ]
    return macs[0] / macs[1]


def crossings(first: Curve, second: Curve) -> list[float]:
    """The costs at which two curves cross, each drawn straight between its points over the logarithm of the cost."""
    costs = sorted({cost for cost, _ in first + second})
    low, high = max(first[0][0], second[0][0]), min(first[-1][0], second[-1][0])
    places = np.log([cost for cost in costs if low <= cost <= high])
    gaps = _read(first, places) - _read(second, places)
    costs = []
    for left in range(len(places) - 1):
        before, after = gaps[left], gaps[left + 1]
        if before * after < 0:
            costs.append(float(np.exp(places[left] + (places[left + 1] - places[left]) * before / (before - after))))
    return costs


def _read(curve: Curve, places: np.ndarray) -> np.ndarray:
    return np.interp(places, np.log([cost for cost, _ in curve]), [value for _, value in curve])


def _verdict(cost: float, curves: dict[str, Curve]) -> str:
    compressed, dense = (float(_read(curves[name], np.log([cost]))[0]) for name in ("compressed", "dense"))
    better = "compressing is better" if compressed < dense else "fewer steps of the dense model are better"
    return f"at the cost of {cost:.1f} dense steps {better}: {compressed:.3f} compressed, {dense:.3f} dense"


def _crossed(places: list[float], curves: dict[str, Curve]) -> str:
    """Where the curves cross, and which model is better on either side of it."""
    low, high = (end(curves["dense"][i][0], curves["compressed"][i][0]) for i, end in ((0, max), (-1, min)))
    if low > high:
        return "the curves have no cost in common"
    within = f"between the costs of {low:.1f} and {high:.1f} dense steps"
    if not places:
        return f"the curves do not cross {within}"
    gap = np.subtract(*(_read(curves[name], np.log([low])) for name in ("compressed", "dense")))
    below, above = ("compressing", "fewer steps") if gap < 0 else ("fewer steps", "compressing")
    if len(places) > 1:
        return f"the curves cross {len(places)} times {within}, at {', '.join(f'{place:.1f}' for place in places)}"
    return f"the curves cross at {places[0]:.1f} dense steps: below it {below} is better, above it {above}"


def _point(
    name: str, steps: int, subjects: Subjects, settings: EvaluateSettings, judged: Judged, place: Resources
) -> tuple[int, float]:
    features = judged.features[name]
    if steps != own_plan(subjects.models[name], sampling_settings(settings)).steps:
        images = sample_images(
            subjects.models[name],
            sampling_settings(settings, steps),
            settings.images,
            place.samples(name),
            conditions=subjects.conditions(settings.seed),
            device=place.device,
            progress=place.progress,
            work=f"sampling the {name} model in {steps} steps",
        )
        features = sample_features(images, subjects.extractor, place, f"features of {steps} steps")
    return steps, frechet_distance(features, judged.features["reference"])
