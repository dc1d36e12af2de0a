"""What can be named in other functions, with a description."""

from __future__ import annotations

from collections.abc import Callable

from exporters.base import known_exporters
from toolkit.adapters.base import known_adapters
from toolkit.api.results import Known
from toolkit.core.errors import unknown
from toolkit.diffusion.sampling import SAMPLERS
from toolkit.evaluation.features import known_extractors
from toolkit.pruning.criteria.base import known_criteria
from toolkit.recovery.losses.base import known_losses
from toolkit.recovery.teaching import known_methods
from toolkit.runners.base import known_runners, unavailable


def known(kind: str) -> Known:
    """What can be named: criteria, adapters, runners, exporters, samplers, losses, teaching or extractors."""
    kinds: dict[str, Callable[[], dict[str, str]]] = {
        "criteria": lambda: {name: c.description for name, c in known_criteria().items()},
        "adapters": lambda: {name: (type(a).__doc__ or "").strip() for name, a in known_adapters().items()},
        "losses": lambda: {name: loss.description for name, loss in known_losses().items()},
        "teaching": lambda: {name: method.description for name, method in known_methods().items()},
        "exporters": known_exporters,
        "extractors": lambda: {name: kind.description for name, kind in known_extractors().items()},
        "runners": lambda: {name: unavailable(name) or "available" for name in known_runners()},
        "samplers": lambda: {name: s.scheduler_class for name, s in SAMPLERS.items()},
    }
    if kind not in kinds:
        raise unknown("kind", kind, list(kinds))
    return Known(kinds[kind]())
