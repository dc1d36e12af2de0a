"""What dtk knows, for those who ask what they can name."""

from __future__ import annotations

from collections.abc import Callable

from toolkit.errors import unknown


def known(kind: str) -> dict[str, str]:
    """Names and descriptions of what dtk knows of a kind."""
    from exporters.catalog import known_exporters
    from toolkit.pruning.catalog import known_adapters, known_criteria
    from toolkit.recovery.catalog import known_losses
    from toolkit.runners.registry import known_runners, unavailable
    from toolkit.sampling import SAMPLERS

    kinds: dict[str, Callable[[], dict[str, str]]] = {
        "criteria": lambda: {name: c.description for name, c in known_criteria().items()},
        "adapters": lambda: {name: (type(a).__doc__ or "").strip() for name, a in known_adapters().items()},
        "losses": lambda: {name: loss.description for name, loss in known_losses().items()},
        "exporters": known_exporters,
        "runners": lambda: {name: unavailable(name) or "available" for name in known_runners()},
        "samplers": lambda: {name: s.scheduler_class for name, s in SAMPLERS.items()},
    }
    if kind not in kinds:
        raise unknown("kind", kind, list(kinds))
    return kinds[kind]()
