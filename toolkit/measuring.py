"""Networks of any stock configuration in a runner, for the latency that a target names: the wiring between stages.

The solver asks for the latency of a configuration, the profiler measures runners, the exporter writes what a runner
reads; none of them knows another.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit import models
from toolkit.errors import UsageError
from toolkit.files import user_cache
from toolkit.progress import Progress, silent
from toolkit.pruning.config import LatencySettings
from toolkit.runners.base import Runner

if TYPE_CHECKING:
    from torch import nn

    from profiles.latency_table import LatencyTable, Timing
    from toolkit.denoiser_inputs import InputSpec


class Latencies:
    """The latency of configurations and of networks of one dense model, as the prune stage asks for them."""

    def __init__(self, table: LatencyTable, open_network: Callable[[nn.Module], Any]) -> None:
        self._table, self._open_network = table, open_network

    def measure(self, config: Mapping[str, Any]) -> Timing:
        """A configuration's entry in the table, measured now where it has none."""
        return self._table.measure(config)

    def check(self, network: nn.Module) -> Timing:
        """A network as it is, measured now."""
        with self._open_network(copy.deepcopy(network).cpu()) as runner:
            return self._table.compare(runner)


@contextmanager
def latencies(
    dense: models.ModelFolder, settings: LatencySettings, device: str, progress: Progress = silent
) -> Iterator[Latencies]:
    """What measures latencies of ``dense``'s configurations.

    Raises MissingToolError where the runner cannot run on ``device``.
    """
    import torch

    from profiles.config import Rounds
    from profiles.latency_table import LatencyTable
    from toolkit.conditioner import context_tokens
    from toolkit.denoiser_inputs import example_inputs, input_specs
    from toolkit.environment import machine, versions
    from toolkit.runners.registry import check_available

    check_available(settings.runner, device)
    specs = input_specs(dense.class_name, dense.config, tokens=context_tokens(dense))

    def open_network(network: nn.Module) -> Any:
        return opened(network, specs, settings, device, progress)

    def open_config(config: Mapping[str, Any]) -> Any:
        with torch.random.fork_rng(devices=[]):  # any weights will do
            network = models.build(dense.class_name, config, device="cpu")
        return open_network(network)

    facts = {
        "class": dense.class_name,
        **settings.model_dump(mode="json", exclude={"seconds"}),
        "device": device,
        "threads": torch.get_num_threads(),
        "machine": machine(device),
        "versions": versions(),
    }
    inputs = example_inputs(specs, settings.batch, device=device)
    config, rounds = models.full_config(dense), Rounds(seconds=settings.seconds)
    with LatencyTable(user_cache("latency"), facts, config, open_config, inputs, rounds) as table:
        yield Latencies(table, open_network)


@contextmanager
def opened(
    network: nn.Module, specs: Mapping[str, InputSpec], settings: LatencySettings, device: str, progress: Progress
) -> Iterator[Runner]:
    """``network`` in the runner of the settings, in the form it reads; the network may be changed."""
    from toolkit.runners.registry import open_runner, runner_reads

    reads = runner_reads(settings.runner)
    with tempfile.TemporaryDirectory(prefix="dtk-latency-") as scratch:
        options = {}
        if reads == "model":
            network.save_pretrained(scratch)  # type: ignore[operator]
            source: models.ModelFolder | Path = models.ModelFolder(Path(scratch), "")
            options["dtype"] = settings.dtype
        else:
            source = _exported(network, specs, settings, Path(scratch) / "denoiser.onnx")
            source = _engine(source, settings, progress) if reads == "engine" else source
        with closing(open_runner(settings.runner, source, device=device, **options)) as runner:
            yield runner


def _exported(network: nn.Module, specs: Mapping[str, InputSpec], settings: LatencySettings, path: Path) -> Path:
    from exporters.config import BF16_OPSET, ExportSettings
    from exporters.onnx import export_onnx

    opset = ExportSettings().opset
    opset = max(opset, BF16_OPSET) if settings.dtype == "bf16" else opset
    export_onnx(network, specs, path, dtype=settings.dtype, opset=opset)
    return path


def _engine(onnx: Path, settings: LatencySettings, progress: Progress) -> Path:
    from exporters.config import BatchRange, ExportSettings
    from exporters.engines import write_engine
    from toolkit.files import read_json
    from toolkit.runners.tensorrt_api import load_tensorrt

    plan = onnx.with_suffix(".plan")
    batch = BatchRange(min=settings.batch, opt=settings.batch, max=settings.batch)
    exporting = ExportSettings(dtype=settings.dtype, batch=batch, trt=True)
    description, cache = read_json(onnx.with_suffix(".json")), onnx.parent / "engines"  # measured once, kept as a time
    write_engine(load_tensorrt(), onnx, description, plan, exporting, progress, cache=cache)
    return plan


def refuse_idle(given: Mapping[str, Any], target: str) -> None:
    """Raise UsageError where a runner or batch size is named for a target that measures nothing."""
    from toolkit.pruning.targets import parse_target

    if given and parse_target(target).figure != "latency":
        raise UsageError(
            f"{' and '.join(f'--{name}' for name in given)} would change nothing.",
            found=f"--target {target}",
            expected="--target latency=..., the only one that is measured",
        )
