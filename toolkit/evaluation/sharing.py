"""Sampling by several processes of a launcher: each makes some shards, one judges them all."""

from __future__ import annotations

from datetime import timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any

from toolkit.core import processes
from toolkit.evaluation.controls import plans
from toolkit.evaluation.judging import Resources, Subjects, sampling_settings
from toolkit.evaluation.samples import sample_share
from toolkit.evaluation.settings import EvaluateSettings

if TYPE_CHECKING:
    from accelerate import PartialState


PATIENCE = timedelta(days=1)  # until the slowest process has made its share; torch gives up after minutes


def join(device: str) -> PartialState:
    """This process among the launcher's; on GPUs each has its own device."""
    from accelerate import PartialState

    return PartialState(cpu=device == "cpu", timeout=PATIENCE)


def of_main(value: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the main process has as ``value``, in every process that has joined."""
    from accelerate.utils import broadcast_object_list

    values: list[Any] = broadcast_object_list([value])
    return dict(values[0]) if values[0] else None


def share_sampling(
    subjects: Subjects, settings: EvaluateSettings, place: Resources, state: PartialState, fraction: float | None
) -> None:
    """Make this process's share of all the samples an evaluation needs, and wait for the other processes'.

    ``fraction``: the time of a call, compressed over dense; None without controls. The shards lie in caches that all
    processes must see; what one of them leaves out, the judging process makes.
    """
    wanted = {name: [[sampling_settings(settings)]] for name in subjects.models}
    if fraction is not None:
        wanted = plans(subjects, settings, fraction)
    for name, model in subjects.models.items():
        for plan in chain.from_iterable(wanted[name]):
            sample_share(
                model,
                plan,
                settings.images,
                place.samples(name),
                (processes.index(), processes.count()),
                conditions=subjects.conditions(settings.seed),
                device=str(state.device),
                progress=place.progress,
                work=f"sampling the {name} model in {plan.steps} steps of {plan.sampler}",
            )
    state.wait_for_everyone()
