"""Sampling by several processes of a launcher: each makes some shards, one judges them all."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from toolkit.core import processes
from toolkit.evaluation.controls import macs_ratio, steps_of_controls
from toolkit.evaluation.judging import Resources, Subjects, sampling_settings
from toolkit.evaluation.samples import own_plan, sample_share
from toolkit.evaluation.settings import EvaluateSettings

if TYPE_CHECKING:
    from accelerate import PartialState


PATIENCE = timedelta(days=1)  # until the slowest process has made its share; torch gives up after minutes


def join(device: str) -> PartialState:
    """This process among the launcher's; on GPUs each has its own device."""
    from accelerate import PartialState

    return PartialState(cpu=device == "cpu", timeout=PATIENCE)


def share_sampling(subjects: Subjects, settings: EvaluateSettings, place: Resources, state: PartialState) -> None:
    """Make this process's share of all the samples an evaluation needs, and wait for the other processes'.

    The shards lie in caches that all processes must see; what one of them leaves out, the judging process makes.
    """
    steps = {name: [settings.sampling_steps] for name in subjects.models}
    if settings.controls:
        ratio = macs_ratio(subjects)
        own = own_plan(subjects.compressed, sampling_settings(settings)).steps
        steps = steps_of_controls(settings.sampling_steps, ratio, own)
    for name, model in subjects.models.items():
        for taken in steps[name]:
            sample_share(
                model,
                sampling_settings(settings, taken),
                settings.images,
                place.samples(name),
                (processes.index(), processes.count()),
                conditions=subjects.conditions(settings.seed),
                device=str(state.device),
                progress=place.progress,
                work=f"sampling the {name} model in {taken} steps",
            )
    state.wait_for_everyone()
