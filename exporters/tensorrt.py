"""A TensorRT plan from an ONNX file, by one path for TensorRT 10, 11 and TensorRT for RTX.

Networks are strongly typed: the types of the ONNX graph are the types of the engine, and no flag changes them.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

from exporters.engine_config import Shapes, configure
from exporters.settings import EngineSettings
from toolkit.core.errors import DtkError
from toolkit.core.files import replacing
from toolkit.core.progress import Progress
from toolkit.runners.tensorrt_api import TensorRT

WORK = "build engine"


class OverBudgetError(DtkError):
    """A build took longer than it was allowed to."""


def parse(api: TensorRT, onnx: Path, builder: Any, logger: Any) -> Any:
    """The typed network of an ONNX file. Raises DtkError, naming the operator, if the parser refuses one."""
    trt = api.module
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        errors = [parser.get_error(number) for number in range(parser.num_errors)]
        first = errors[0]
        raise DtkError(
            f"{api.package} {api.version} refuses {onnx.name} at the operator {first.node_operator() or '?'}.",
            found=f"{first.node_name() or 'no node name'}: {first.desc()} ({first.code()})",
            do="export another --opset, or leave out --trt: the ONNX file itself is whole",
        )
    return network


def build_plan(
    api: TensorRT,
    network: Any,
    builder: Any,
    logger: Any,
    shapes: Shapes,
    settings: EngineSettings,
    timing_cache: Path | None,
    progress: Progress,
) -> bytes:
    """The serialized engine of ``network`` for a range of shapes.

    ``timing_cache`` is read and rewritten by TensorRT; TensorRT for RTX times nothing when it builds. Raises UsageError
    for settings that this TensorRT does not know, DtkError if the build fails, OverBudgetError if it takes longer than
    the settings allow, KeyboardInterrupt if it was interrupted.
    """
    config = builder.create_builder_config()
    configure(api, config, settings)
    profile = builder.create_optimization_profile()
    for name, sizes in shapes.items():
        profile.set_shape(name, *sizes)
    config.add_optimization_profile(profile)
    cached = timing_cache.read_bytes() if timing_cache and timing_cache.is_file() else b""
    if not api.rtx:
        config.set_timing_cache(config.create_timing_cache(cached), False)
    monitor = progress_monitor(api, progress, settings.build_budget_s)
    config.progress_monitor = monitor
    with _heeding_ctrl_c(monitor):
        plan = builder.build_serialized_network(network, config)
    if monitor.interrupted:
        raise KeyboardInterrupt
    if plan is None and monitor.over_budget:
        raise OverBudgetError(
            f"An engine takes longer to build than {settings.build_budget_s:g} s.",
            found=f"optimisation level {settings.level}",
            do="a longer --build-budget-s",
        )
    if plan is None:
        raise DtkError(
            f"{api.package} {api.version} could not build an engine.",
            found="; ".join(logger.errors) or "it said nothing",
        )
    if timing_cache and not api.rtx:
        with replacing(timing_cache) as temporary:  # another build may be reading it
            temporary.write_bytes(bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


@contextmanager
def _heeding_ctrl_c(monitor: Any) -> Iterator[None]:
    """Ctrl-C asks the monitor to end the build: raised in one of TensorRT's callbacks, it is caught there and lost."""

    def ask(*_: object) -> None:
        monitor.interrupted = True

    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler and current_thread() is main_thread()
    if ours:
        signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def layer_information(api: TensorRT, plan: bytes) -> list[Any]:
    """What TensorRT's inspector says of each layer of a plan; nothing if it cannot be opened here.

    A layer is a mapping, or its name alone.
    """
    trt = api.module
    runtime = trt.Runtime(collecting_logger(api))  # must outlive the engine
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        return []
    inspector = engine.create_engine_inspector()
    layers: list[Any] = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))["Layers"]
    return layers


def collecting_logger(api: TensorRT) -> Any:
    """A TensorRT logger that keeps what went wrong, under ``errors``, and prints nothing."""
    trt = api.module

    class Collecting(trt.ILogger):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message.splitlines()[0])

    return Collecting()


def progress_monitor(api: TensorRT, progress: Progress, budget_s: float | None = None) -> Any:
    """Tells ``progress`` how far the outermost phase is; a Ctrl-C or the budget ends a build at its next step."""
    trt = api.module
    end = inf if budget_s is None else time.monotonic() + budget_s

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.interrupted = self.over_budget = False
            self.outermost: tuple[str, int] | None = None

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self.outermost = (name, steps)
                self._tell(0)

        def step_complete(self, name: str, step: int) -> bool:
            if self.outermost and name == self.outermost[0]:
                self._tell(step + 1)
            self.over_budget = time.monotonic() > end
            return not (self.interrupted or self.over_budget)

        def phase_finish(self, name: str) -> None:
            if self.outermost and name == self.outermost[0]:
                self._tell(self.outermost[1])

        def _tell(self, done: int) -> None:
            try:
                progress(WORK, done, self.outermost[1] if self.outermost else done)
            except KeyboardInterrupt:  # must not pass through the builder's own frames
                self.interrupted = True

    return Monitor()
