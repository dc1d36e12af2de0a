"""The engines of a run: dense and compressed plans with their descriptions, from the cache or built now."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from exporters.config import BatchRange, ExportSettings
from exporters.engine_cache import EngineCache, cache_folder
from exporters.precision import prove
from exporters.tensorrt import WORK, build_plan, collecting_logger, parse
from toolkit.files import files_sha256, value_sha256, write_json
from toolkit.progress import Progress
from toolkit.runners.tensorrt_api import TensorRT, gpu_facts, has_gpu

NOT_RUN = "built without a GPU: nothing was run, and no latency is claimed"


def batch_ranges(settings: ExportSettings) -> dict[str, BatchRange]:
    """The ranges to build an engine for, by the ending of its name: the whole, and each shape alone where asked."""
    whole, sizes = settings.batch, sorted({settings.batch.min, settings.batch.opt, settings.batch.max})
    alone = {f"-b{size}": BatchRange(min=size, opt=size, max=size) for size in sizes}
    return {"": whole} | (alone if settings.engine.one_per_shape else {})


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
    """Write the plan of ``onnx`` (described by ``description``) to ``target`` and its description beside it (.json).

    ``cache``: where engines are kept, None = the user's; kernels' timings are kept in the user's always. Raises
    DtkError where the parser refuses an operator, the build fails or the precision is not what was asked for.
    """
    engine = EngineCache(cache or cache_folder()).get(
        engine_facts(api, description, settings),
        lambda: _build(api, onnx, description, settings, progress),
        lambda: progress(f"{WORK}: waiting for another process", 0, 1),
    )
    shutil.copyfile(engine.plan, target)
    found = engine.description | {"rebuilt": engine.reason, "not_run": None if has_gpu() else NOT_RUN}
    write_json(target.with_suffix(".json"), found)
    return found


def engine_facts(api: TensorRT, description: dict[str, Any], settings: ExportSettings) -> dict[str, Any]:
    """All that an engine depends on; the names are what a rebuild is explained with."""
    return {
        "onnx": files_sha256(description["sha256"]),
        "builder": api.package,
        "version": api.version,
        **gpu_facts(),
        "batch": str(settings.batch),
        "dtype": description["dtype"],
        "targets": list(settings.engine.compute_capability),
        "level": settings.engine.level,
        "workspace_mib": settings.engine.workspace_mib,
    }


def _build(
    api: TensorRT,
    onnx: Path,
    description: dict[str, Any],
    settings: ExportSettings,
    progress: Progress,
) -> tuple[bytes, dict[str, Any]]:
    logger = collecting_logger(api)
    builder = api.module.Builder(logger)
    network = parse(api, onnx, builder, logger)
    timing = cache_folder() / f"timing-{value_sha256([api.version, gpu_facts()])[:16]}.cache"
    started = time.monotonic()
    plan = build_plan(api, network, builder, logger, settings.batch, settings.engine, timing, progress)
    seconds = time.monotonic() - started
    proof = prove(api, network, onnx, plan, settings.dtype, description.get("kept_fp32_share", 0.0))
    return plan, {"build_s": round(seconds, 2), "precision": proof}
