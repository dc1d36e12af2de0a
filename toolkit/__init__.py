"""dtk: make a trained diffusion model half as large, measure what that gained, and hand it to a server.

    import toolkit

    plan = toolkit.plan(unet, target="macs=0.57")
    small = toolkit.prune(unet, target="macs=0.57", data=images, scheduler=scheduler)
    run = toolkit.compress("path/to/pipeline", data="images/", target="macs=0.57", out="RUN")
    run.evaluate(images=5000)
    print(run.report().verdict)

Every command is a function here; docs/python.md describes them. Nothing heavy is imported until one of
them is used (PEP 562).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolkit.api.catalog import known
    from toolkit.api.doctor import doctor
    from toolkit.api.importing import import_checkpoint
    from toolkit.api.pruning import plan, prune
    from toolkit.api.runs import Run, compress, open_run, run_recipe
    from toolkit.api.several import compare_evaluations, compare_profiles, sweep
    from toolkit.core.errors import DtkError

__version__ = "0.1.0"

_HOMES = {
    "DtkError": "toolkit.core.errors",
    "Run": "toolkit.api.runs",
    "compare_evaluations": "toolkit.api.several",
    "compare_profiles": "toolkit.api.several",
    "compress": "toolkit.api.runs",
    "doctor": "toolkit.api.doctor",
    "import_checkpoint": "toolkit.api.importing",
    "known": "toolkit.api.catalog",
    "open_run": "toolkit.api.runs",
    "plan": "toolkit.api.pruning",
    "prune": "toolkit.api.pruning",
    "run_recipe": "toolkit.api.runs",
    "sweep": "toolkit.api.several",
}

__all__ = [
    "DtkError",
    "Run",
    "compare_evaluations",
    "compare_profiles",
    "compress",
    "doctor",
    "import_checkpoint",
    "known",
    "open_run",
    "plan",
    "prune",
    "run_recipe",
    "sweep",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'toolkit' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
