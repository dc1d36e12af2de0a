"""A recovery in an experiment tracker: what log.jsonl says also goes to one of accelerate's, by its name."""

from __future__ import annotations

from accelerate import Accelerator
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import LoggerType

from toolkit.core.errors import MissingToolError, unknown
from toolkit.recovery.settings import RecoverSettings

PROJECT = "dtk"


def check_tracker(name: str | None) -> None:
    """Raise UsageError for a tracker that accelerate does not know, MissingToolError for one that is not installed."""
    if name is None:
        return
    if name not in LOGGER_TYPE_TO_CLASS:
        raise unknown("tracker", name, list(LOGGER_TYPE_TO_CLASS))
    if name in LoggerType.list() and name not in map(str, get_available_trackers()):
        raise MissingToolError(f"The tracker {name} is not installed.", do=f"pip install {name}")


def start_tracking(accelerator: Accelerator, settings: RecoverSettings) -> None:
    """Begin a run of the tracker that the accelerator was made with, if any; it gets the settings as text."""
    if settings.track is not None:
        accelerator.init_trackers(PROJECT, config={name: str(value) for name, value in settings})


def stop_tracking(accelerator: Accelerator) -> None:
    """End it; what the tracker holds back is written."""
    for tracker in accelerator.trackers:
        tracker.finish()
