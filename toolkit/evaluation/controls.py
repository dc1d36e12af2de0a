"""The control that a compressed model must beat: the dense one in fewer steps, in the same measured time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from toolkit.core.errors import UsageError
from toolkit.diffusion.few_steps import taught_steps
from toolkit.diffusion.sampling import build_scheduler
from toolkit.evaluation.distances import frechet_distance
from toolkit.evaluation.judging import Judged, Resources, Subjects, sample_features, sampling_settings
from toolkit.evaluation.samples import SamplingSettings, own_plan, sample_images
from toolkit.evaluation.settings import EvaluateSettings
from toolkit.models.schedulers import load_scheduler

FAST = ("dpm-solver", "unipc")
"""Samplers that users take for few steps: of these and the evaluation's own the best counts, for either model."""
Curve = list[tuple[float, float]]  # (time of an image in dense steps, distance), by rising time


def fewer_steps(
    subjects: Subjects, settings: EvaluateSettings, judged: Judged, place: Resources, time: dict[str, Any]
) -> dict[str, Any]:
    """Distance against time for both models, where the two curves cross, and which is better in equal time.

    ``time``: of a call of the compressed denoiser, as a ``fraction`` of the dense one's, and how it was measured. The
    unit of all times is a step of the dense model.
    """
    step = {"dense": 1.0, "compressed": float(time["fraction"])}
    curves = {
        name: [
            _point(name, tried, subjects, settings, judged, place)
            | {"time_in_dense_steps": tried[0].steps * step[name]}
            for tried in by_steps
        ]
        for name, by_steps in plans(subjects, settings, step["compressed"]).items()
    }
    places = {name: [(p["time_in_dense_steps"], p["frechet_distance"]) for p in curves[name]] for name in curves}
    crossed = crossings(places["compressed"], places["dense"])
    spread = time["low"] / time["fraction"], time["high"] / time["fraction"]
    return {
        "all_steps": settings.sampling_steps,
        "time": time,
        "curves": curves,
        "crossings_in_dense_steps": crossed,
        "verdict": f"{_verdict(places, spread)}; {_crossed(crossed, places)}",
    }


def check_steps(subjects: Subjects) -> None:
    """Raise UsageError for a dense model that was taught its steps, and so cannot take fewer."""
    if own := taught_steps(load_scheduler(subjects.dense)):
        raise UsageError(
            "The dense model was taught its steps: there are no fewer to compare with.",
            found=f"{', '.join(map(str, own))} steps",
            do="leave out --controls",
        )


def plans(subjects: Subjects, settings: EvaluateSettings, fraction: float) -> dict[str, list[list[SamplingSettings]]]:
    """For each model and number of steps, rising, how it is sampled: with every sampler worth trying.

    A compressed model that was taught its steps is sampled as it was taught.
    """
    whole, scheduler = sampling_settings(settings), load_scheduler(subjects.dense)
    taught = bool(taught_steps(load_scheduler(subjects.compressed)))
    own = own_plan(subjects.compressed, whole)
    most = scheduler.config.num_train_timesteps
    samplers = dict.fromkeys((whole.sampler, *FAST))

    def ways(steps: int) -> list[SamplingSettings]:
        tried = [replace(whole, steps=steps, sampler=sampler) for sampler in samplers]
        return [plan for plan in tried if plan.sampler == whole.sampler or _can(scheduler, plan)]

    numbers = steps_of_controls(whole.steps, fraction, own.steps if taught else None, most)
    made = {name: [ways(steps) for steps in numbers[name]] for name in numbers}
    return made | {"compressed": [[own]]} if taught else made


def _can(scheduler: Any, plan: SamplingSettings) -> bool:
    """Whether a sampler knows the scheduler's noise levels: diffusers' classes do not all know the same."""
    try:
        build_scheduler(scheduler, plan.sampler, plan.steps)
    except UsageError:
        return False
    return True


def steps_of_controls(full: int, fraction: float, taught: int | None, most: int) -> dict[str, list[int]]:
    """The numbers of steps each model is sampled in, rising; ``fraction``: the time of a call, compressed over dense.

    The compressed model takes all, half and a quarter of the steps, the dense one all and as many as take the same
    time. A compressed model that was ``taught`` its steps takes only those, and the dense one also as many as take
    twice as long. None takes more than ``most``.
    """
    compressed = [taught] if taught else sorted({max(1, full // part) for part in (1, 2, 4)})
    paid = [taught, 2 * taught] if taught else compressed
    equal = {min(max(1, round(taken * fraction)), most) for taken in paid}
    return {"dense": sorted({full} | equal), "compressed": compressed}


def crossings(first: Curve, second: Curve) -> list[float]:
    """The times at which two curves cross, each drawn straight between its points over the logarithm of the time."""
    times = sorted({time for time, _ in first + second})
    low, high = max(first[0][0], second[0][0]), min(first[-1][0], second[-1][0])
    places = np.log([time for time in times if low <= time <= high])
    gaps = _read(first, places) - _read(second, places)
    times = []
    for left in range(len(places) - 1):
        before, after = gaps[left], gaps[left + 1]
        if before * after < 0:
            times.append(float(np.exp(places[left] + (places[left + 1] - places[left]) * before / (before - after))))
    return times


def _read(curve: Curve, places: np.ndarray) -> np.ndarray:
    return np.interp(places, np.log([time for time, _ in curve]), [value for _, value in curve])


def _verdict(curves: dict[str, Curve], spread: tuple[float, float] = (1.0, 1.0)) -> str:
    """Which is better in the time of the compressed model in all its steps, which is known to within ``spread``."""
    time, compressed = curves["compressed"][-1]
    least, at_least = curves["dense"][0]
    if time < least and compressed < at_least:
        found = f"{compressed:.3f} in the time of {time:.1f} dense steps"
        return f"compressing is better: {found}, {at_least:.3f} dense in {least:g}"
    if time < least:
        return f"the compressed model takes the time of {time:.1f} dense steps, and no dense one takes as little"
    places = np.log([time, *(time * bound for bound in spread)])
    dense, *bounds = (float(value) for value in _read(curves["dense"], places))
    figures = f"{compressed:.3f} compressed, {dense:.3f} dense"
    if min(bounds) <= compressed <= max(bounds):
        return f"in the time of {time:.1f} dense steps it is not decided which is better: {figures}"
    better = "compressing is better" if compressed < dense else "fewer steps of the dense model are better"
    return f"in the time of {time:.1f} dense steps {better}: {figures}"


def _crossed(crossed: list[float], curves: dict[str, Curve]) -> str:
    """Where the curves cross, and which model is better on either side of it."""
    low, high = (end(curves["dense"][i][0], curves["compressed"][i][0]) for i, end in ((0, max), (-1, min)))
    if low > high:
        return "the curves have no time in common"
    within = f"between the times of {low:.1f} and {high:.1f} dense steps"
    if not crossed:
        return f"the curves do not cross {within}"
    gap = np.subtract(*(_read(curves[name], np.log([low])) for name in ("compressed", "dense")))
    below, above = ("compressing", "fewer steps") if gap < 0 else ("fewer steps", "compressing")
    if len(crossed) > 1:
        return f"the curves cross {len(crossed)} times {within}, at {', '.join(f'{place:.1f}' for place in crossed)}"
    return f"the curves cross at {crossed[0]:.1f} dense steps: below it {below} is better, above it {above}"


def _point(
    name: str,
    tried: Sequence[SamplingSettings],
    subjects: Subjects,
    settings: EvaluateSettings,
    judged: Judged,
    place: Resources,
) -> dict[str, Any]:
    """The least distance of these ways to sample, which take equally many steps."""
    by_sampler = {}
    for plan in tried:
        features = judged.features[name]
        if plan != own_plan(subjects.models[name], sampling_settings(settings)):
            images = sample_images(
                subjects.models[name],
                plan,
                settings.images,
                place.samples(name),
                conditions=subjects.conditions(settings.seed),
                device=place.device,
                progress=place.progress,
                work=f"sampling the {name} model in {plan.steps} steps of {plan.sampler}",
            )
            features = sample_features(images, subjects.extractor, place, f"features of {plan.steps} steps")
        by_sampler[plan.sampler] = frechet_distance(features, judged.features["reference"])
    sampler, distance = min(by_sampler.items(), key=lambda found: found[1])
    return {"steps": tried[0].steps, "sampler": sampler, "frechet_distance": distance, "by_sampler": by_sampler}
