"""An engine of an ONNX file: from the cache or built now, and proven to compute in its precision."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporters.engine_cache import CachedEngine, EngineCache, cache_folder
from exporters.engine_config import profile_shapes
from exporters.precision import prove
from exporters.settings import ExportSettings
from exporters.tensorrt import WORK, OverBudgetError, build_plan, collecting_logger, layer_information, parse
from toolkit.core.files import files_sha256, value_sha256, write_json
from toolkit.core.progress import Progress
from toolkit.runners.tensorrt_api import TensorRT, driver_version, gpu_facts, has_gpu

NOT_RUN = "built without a GPU: nothing was run, and no latency is claimed"
Items = Mapping[str, tuple[int, ...]]
"""Of inputs with dynamic sides, the shape of one item that the engine is built for."""


def write_engine(
    api: TensorRT,
    onnx: Path,
    description: dict[str, Any],
    target: Path,
    settings: ExportSettings,
    progress: Progress,
    *,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Write the plan of ``onnx`` (described by ``description``) to ``target`` and its description next to it (.json).

    ``cache`` and errors as for ``build_engine``.
    """
    engine = build_engine(api, onnx, description, settings, progress, cache=cache)
    return write(engine, target)


def write(engine: CachedEngine, target: Path, **more: Any) -> dict[str, Any]:
    """Copy an engine and its layers to ``target``, its description and ``more`` next to it (.json)."""
    shutil.copyfile(engine.plan, target)
    if engine.layers.is_file():
        shutil.copyfile(engine.layers, target.with_suffix(".layers.json"))
    described = {name: fact for name, fact in engine.description.items() if not name.startswith("parity ")}
    described |= {"rebuilt": engine.reason, "not_run": None if has_gpu() else NOT_RUN} | more
    write_json(target.with_suffix(".json"), described)
    return described


def build_engine(
    api: TensorRT,
    onnx: Path,
    description: dict[str, Any],
    settings: ExportSettings,
    progress: Progress,
    *,
    cache: Path | None = None,
    items: Items | None = None,
) -> CachedEngine:
    """The engine of ``onnx``, proven to compute in its precision.

    ``cache``: where engines are kept, None = the user's; kernels' timings are kept in the user's always. Raises
    DtkError if the parser refuses an operator, the build fails or the precision is not what was requested.
    """
    engine = EngineCache(cache or cache_folder()).get(
        engine_facts(api, description, settings, items),
        lambda: _build(api, onnx, description, settings, items or {}, progress),
        lambda: progress(f"{WORK}: waiting for another process", 0, 1),
    )
    # proven once it is in the cache: an interrupted proof costs no build
    engine.finding("precision", lambda: _proof(api, onnx, description, engine))
    return engine


def engine_facts(
    api: TensorRT, description: dict[str, Any], settings: ExportSettings, items: Items | None = None
) -> dict[str, Any]:
    """All that an engine depends on; the names are what a rebuild is explained with."""
    sides = {"items": {name: list(shape) for name, shape in items.items()}} if items else {}
    return {
        "onnx": files_sha256(description["sha256"]),
        "builder": api.package,
        "version": api.version,
        **gpu_facts(),
        "batch": str(settings.batch),
        "dtype": description["dtype"],
        "targets": list(settings.engine.compute_capability),
        **settings.engine.model_dump(exclude={"compute_capability", "one_per_shape"}),
        **sides,
    }


def timings(api: TensorRT) -> Path:
    """Where TensorRT's timings of kernels are kept for this GPU and version."""
    return cache_folder() / f"timing-{value_sha256([api.version, gpu_facts()])[:16]}.cache"


def _build(
    api: TensorRT, onnx: Path, description: dict[str, Any], settings: ExportSettings, items: Items, progress: Progress
) -> tuple[bytes, dict[str, Any]]:
    logger = collecting_logger(api)
    builder = api.module.Builder(logger)
    network = parse(api, onnx, builder, logger)
    shapes = profile_shapes(description["inputs"], settings.batch, items)
    for level in range(settings.engine.level, -1, -1):
        engine, started = settings.engine.model_copy(update={"level": level}), time.monotonic()
        try:
            plan = build_plan(api, network, builder, logger, shapes, engine, timings(api), progress)
        except OverBudgetError:
            if level == 0:
                raise
            continue
        break
    return plan, {"build_s": round(time.monotonic() - started, 2), "level": level, "driver": driver_version()}


def _proof(api: TensorRT, onnx: Path, description: dict[str, Any], engine: CachedEngine) -> dict[str, Any]:
    logger = collecting_logger(api)
    network = parse(api, onnx, api.module.Builder(logger), logger)
    plan = engine.plan.read_bytes()
    layers = layer_information(api, plan) if has_gpu() else []
    if layers:
        write_json(engine.layers, layers)
    kept = description.get("kept_fp32_share", 0.0)
    return prove(api, network, onnx, plan, description["dtype"], kept, layers)
