"""What measures the networks of a configuration in a runner, for targets in latency and for equal time."""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from exporters.engines import write_engine
from exporters.onnx import export_onnx
from exporters.settings import BatchRange, DtypeName, EngineSettings, ExportSettings
from profiles.latency_table import LatencyTable, Timing
from profiles.settings import Rounds
from toolkit.adapters.base import InputSpec
from toolkit.adapters.inputs import example_inputs
from toolkit.adapters.space import Config, Values
from toolkit.core.environment import machine, resolve_device, versions
from toolkit.core.errors import DtkError
from toolkit.core.files import read_json, user_cache
from toolkit.core.progress import Progress, silent
from toolkit.models.build import build_model, full_config
from toolkit.models.conditioning import denoiser_inputs
from toolkit.models.folder import ModelFolder
from toolkit.pruning.latency_cost import LatencyCost
from toolkit.pruning.prunable import Prunable
from toolkit.pruning.settings import LatencySettings, PruneSettings
from toolkit.pruning.targets import Bound, Target, parse_target
from toolkit.runners.base import Runner, check_available, open_runner, precision_options, runner_reads, unavailable
from toolkit.runners.tensorrt_api import load_tensorrt

logger = logging.getLogger(__name__)


def latency_cost(
    prunable: Prunable, target: Target, latencies: Latencies | None, progress: Progress
) -> LatencyCost | None:
    """The cost function of a target that bounds latency, its table measured; None for another target."""
    if target.bound("latency") is None:
        return None
    if latencies is None:
        raise DtkError("A target in latency needs a runner to measure with.", found="none was given")
    return LatencyCost(prunable.space, latencies.measure, progress)


def latency_facts(
    cost: LatencyCost, values: Values, target: Target, settings: PruneSettings, again: Timing | None = None
) -> dict[str, Any]:
    """What was measured of a choice, for the plan: ``again`` is the pruned model itself, else the table's entry counts.

    ``missed`` says in words that the target was not met when measured ``again``, else it is None.
    """
    bound = target.bound("latency")
    assert bound is not None
    goal = bound.goal(cost.dense_ms)
    timing = again or cost.timings.get(values)
    figures = _figures(timing) if timing else {"dense_ms": cost.dense_ms, "ms": cost.dense_ms, **_AS_DENSE}
    return {
        **settings.latency.model_dump(mode="json"),
        "goal_ms": goal,
        **figures,
        "table": {
            "dense_ms": cost.dense_ms,
            "fraction": cost.fraction(values),
            "entries": len(cost.timings),
            "padded_to": cost.unit,
        },
        "prediction_errors": sorted(cost.surprises.values()),
        "missed": _missed(figures, bound),
    }


_AS_DENSE: Mapping[str, Any] = {"fraction": 1.0, "low": 1.0, "high": 1.0, "clock": "none"}


def _figures(timing: Timing) -> dict[str, Any]:
    return {name: getattr(timing, name) for name in ("dense_ms", "ms", "fraction", "low", "high", "clock")}


def _missed(figures: Mapping[str, Any], bound: Bound) -> str | None:
    """That a bound is missed, in words; None if it is met, an upper one by any of the interval."""
    over = figures["ms" if bound.absolute else "fraction"] / bound.value
    missed = over * figures["low"] / figures["fraction"] > 1 if bound.at_most else abs(over - 1) > bound.tolerances[-1]
    reached = f"{figures['ms']:.3g} ms" if bound.absolute else f"{figures['fraction']:.3f} of dense"
    requested = bound.shown(bound.value) if bound.absolute else f"{bound.value:g}"
    words = (
        f"Measured again, the model takes {reached} and not {'at most ' if bound.at_most else ''}{requested} "
        f"({over - 1:+.1%}): the table met it, the machine has changed or is too noisy."
    )
    return words if missed else None


class Latencies:
    """The latency of configurations and of networks of one dense model, as the prune stage asks for them."""

    def __init__(self, table: LatencyTable, open_network: Callable[[nn.Module], Any]) -> None:
        self._table, self._open_network = table, open_network

    def measure(self, config: Mapping[str, Any]) -> Timing:
        """A configuration's entry in the table, measured now if it has none."""
        return self._table.measure(config)

    def check(self, network: nn.Module) -> Timing:
        """A network as it is, measured now."""
        with self._open_network(copy.deepcopy(network).cpu()) as runner:
            return self._table.compare(runner)


@contextmanager
def latencies_for(
    class_name: str,
    dense: Config,
    specs: Mapping[str, InputSpec],
    settings: PruneSettings,
    device: str,
    progress: Progress,
) -> Iterator[Latencies | None]:
    """What measures latencies if the target is one, else None; ``device`` may be "auto"."""
    if parse_target(settings.target).bound("latency") is None:
        yield None
        return
    with latencies(class_name, dense, specs, settings.latency, resolve_device(device), progress) as measuring:
        yield measuring


@contextmanager
def latencies(
    class_name: str,
    dense: Config,
    specs: Mapping[str, InputSpec],
    settings: LatencySettings,
    device: str,
    progress: Progress = silent,
) -> Iterator[Latencies]:
    """What measures latencies of a class's configurations, interleaved with those of the ``dense`` one.

    Raises MissingToolError if the runner cannot run on ``device``.
    """
    check_available(settings.runner, device)

    # The dense model's engine is the first and the largest: how it had to be built binds the others.
    builds = [EngineSettings(build_budget_s=settings.build_budget_s)]

    def open_network(network: nn.Module) -> Any:
        return opened(network, specs, settings, device, progress, builds)

    def open_config(config: Mapping[str, Any]) -> Any:
        with torch.random.fork_rng(devices=[]):  # any weights will do
            network = build_model(class_name, config, device="cpu")
        return open_network(network)

    facts = {
        "class": class_name,
        **settings.model_dump(mode="json", exclude={"seconds"}),
        "device": device,
        "threads": torch.get_num_threads(),
        "machine": machine(device),
        "versions": versions(),
    }
    inputs = example_inputs(specs, settings.batch, device=device)
    rounds = Rounds(seconds=settings.seconds)
    with LatencyTable(user_cache("latency"), facts, dense, open_config, inputs, rounds) as table:
        yield Latencies(table, open_network)


def at_hand(settings: LatencySettings, device: str) -> LatencySettings:
    """The same settings, with PyTorch as the runner where the default one, which nobody chose, cannot run."""
    reason = unavailable(settings.runner, device) if settings.runner == LatencySettings().runner else None
    if reason is None:
        return settings
    logger.warning("Calls are timed in torch: %s", reason)
    return settings.model_copy(update={"runner": "torch"})


def time_of_call(
    dense: ModelFolder, other: ModelFolder, settings: LatencySettings, device: str, progress: Progress = silent
) -> dict[str, Any]:
    """What a call of ``other`` takes compared with one of ``dense``, interleaved: a Timing, and what timed it."""
    specs = denoiser_inputs(dense)
    with latencies(dense.class_name, full_config(dense), specs, settings, device, progress) as measuring:
        progress("latency", 0, 1)
        timing = measuring.measure(full_config(other))
        progress("latency", 1, 1)
    return asdict(timing) | settings.model_dump(mode="json", include={"runner", "batch", "dtype"})


@contextmanager
def opened(
    network: nn.Module,
    specs: Mapping[str, InputSpec],
    settings: LatencySettings,
    device: str,
    progress: Progress,
    builds: list[EngineSettings],
) -> Iterator[Runner]:
    """``network`` in the runner of the settings, in the form it reads; the network may be changed.

    The last of ``builds`` says how an engine is built; how it was built is appended.
    """
    reads = runner_reads(settings.runner)
    with tempfile.TemporaryDirectory(prefix="dtk-latency-") as scratch:
        options = precision_options(settings.runner, settings.dtype)
        if reads == "model":
            network.save_pretrained(scratch)  # type: ignore[operator]
            source: ModelFolder | Path = ModelFolder(Path(scratch), "")
        else:
            dtype = "fp32" if options else settings.dtype  # a runner with precisions of its own reads float32
            source = _exported(network, specs, dtype, Path(scratch) / "denoiser.onnx")
            source = _engine(source, settings, progress, builds) if reads == "engine" else source
        with closing(open_runner(settings.runner, source, device=device, **options)) as runner:
            yield runner


def _exported(network: nn.Module, specs: Mapping[str, InputSpec], dtype: DtypeName, path: Path) -> Path:
    export_onnx(network, specs, path, dtype=dtype, opset=_opset(dtype))
    return path


def _opset(dtype: DtypeName) -> int:
    return ExportSettings(dtype=dtype).known_opset


def _engine(onnx: Path, settings: LatencySettings, progress: Progress, builds: list[EngineSettings]) -> Path:
    plan = onnx.with_suffix(".plan")
    batch, opset = BatchRange(min=settings.batch, opt=settings.batch, max=settings.batch), _opset(settings.dtype)
    exporting = ExportSettings(dtype=settings.dtype, opset=opset, batch=batch, trt=True, engine=builds[-1])
    description, cache = read_json(onnx.with_suffix(".json")), onnx.parent / "engines"  # measured once, kept as a time
    written = write_engine(load_tensorrt(), onnx, description, plan, exporting, progress, cache=cache)
    builds.append(builds[-1].model_copy(update={"level": written["level"]}))
    return plan
