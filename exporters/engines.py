"""The engines of a run: dense and compressed plans with their descriptions, from the cache or built now."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exporters.base import NAMES, STEP, Exported
from exporters.engine_cache import EngineCache, cache_folder
from exporters.ladder import Ladder
from exporters.precision import prove
from exporters.settings import BatchRange, ExportSettings
from exporters.tensorrt import WORK, build_plan, collecting_logger, parse
from toolkit.core.errors import MissingToolError
from toolkit.core.files import files_sha256, read_json, value_sha256, write_json
from toolkit.core.progress import Progress
from toolkit.models.folder import ModelFolder
from toolkit.runners.tensorrt_api import TensorRT, gpu_facts, has_gpu, load_tensorrt

NOT_RUN = "built without a GPU: nothing was run, and no latency is claimed"


def batch_ranges(settings: ExportSettings) -> dict[str, BatchRange]:
    """The ranges to build an engine for, by the ending of its name: the whole, and each single shape if requested."""
    whole, sizes = settings.batch, sorted({settings.batch.min, settings.batch.opt, settings.batch.max})
    single = {f"-b{size}": BatchRange(min=size, opt=size, max=size) for size in sizes}
    return {"": whole} | (single if settings.engine.one_per_shape else {})


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

    ``cache``: where engines are kept, None = the user's; kernels' timings are kept in the user's always. Raises
    DtkError if the parser refuses an operator, the build fails or the precision is not what was requested.
    """
    engine = EngineCache(cache or cache_folder()).get(
        engine_facts(api, description, settings),
        lambda: _build(api, onnx, settings, progress),
        lambda: progress(f"{WORK}: waiting for another process", 0, 1),
    )
    if "precision" not in engine.description:  # proven once it is in the cache: an interrupted proof costs no build
        engine.describe(precision=_proof(api, onnx, description, settings, engine.plan.read_bytes()))
    shutil.copyfile(engine.plan, target)
    description_now = engine.description | {"rebuilt": engine.reason, "not_run": None if has_gpu() else NOT_RUN}
    write_json(target.with_suffix(".json"), description_now)
    return description_now


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
        "tf32": settings.engine.tf32,
    }


def _build(api: TensorRT, onnx: Path, settings: ExportSettings, progress: Progress) -> tuple[bytes, dict[str, Any]]:
    logger = collecting_logger(api)
    builder = api.module.Builder(logger)
    network = parse(api, onnx, builder, logger)
    timing = cache_folder() / f"timing-{value_sha256([api.version, gpu_facts()])[:16]}.cache"
    started = time.monotonic()
    plan = build_plan(api, network, builder, logger, settings.batch, settings.engine, timing, progress)
    return plan, {"build_s": round(time.monotonic() - started, 2)}


def _proof(
    api: TensorRT, onnx: Path, description: dict[str, Any], settings: ExportSettings, plan: bytes
) -> dict[str, Any]:
    logger = collecting_logger(api)
    network = parse(api, onnx, api.module.Builder(logger), logger)
    return prove(api, network, onnx, plan, settings.dtype, description.get("kept_fp32_share", 0.0))


class TensorRTExporter:
    """RUN/tensorrt/{dense,compressed,compressed_step}.plan, a .json next to each.

    The step graph's engine is a server's, which serves any batch of the range and compares its known image. With a GPU
    the other engines are held against torch: ``parity`` in the .json.
    """

    name = folder = "tensorrt"
    key = "engines"

    def description(self) -> str:
        try:
            api = load_tensorrt()
        except MissingToolError as missing:
            return str(missing)
        return f"--trt: engines by {api.package} {api.version}"

    def check(self, models: Mapping[str, ModelFolder], settings: ExportSettings) -> None:
        return None

    def inputs(self, exported: Exported) -> tuple[dict[str, Any], dict[str, str]]:
        api = load_tensorrt()
        facts = {name: engine_facts(api, exported.onnx[name], exported.settings) for name in (*NAMES, STEP)}
        settings = exported.settings.engine.model_dump(mode="json")
        return settings, {name: value_sha256(fact) for name, fact in facts.items()}

    def write(self, folder: Path, exported: Exported, progress: Progress) -> dict[str, Any]:
        api, models = load_tensorrt(), exported.models
        for name, ending, batch in _plans(exported.settings):
            description, target = exported.onnx[name], folder / f"{name}{ending}.plan"
            settings = exported.settings.model_copy(update={"batch": batch})
            built = write_engine(api, exported.run / description["file"], description, target, settings, progress)
            if name in models and has_gpu():
                parity = Ladder(models[name], settings, name).engine(target)
                write_json(target.with_suffix(".json"), built | {"parity": parity})
        return {}

    def result(self, exported: Exported, record: Mapping[str, Any]) -> dict[str, Any]:
        files = [f"{name}{ending}" for name, ending, _ in _plans(exported.settings)]
        folder = exported.run / self.folder
        return {name: {"file": f"{self.folder}/{name}.plan"} | read_json(folder / f"{name}.json") for name in files}


def _plans(settings: ExportSettings) -> list[tuple[str, str, BatchRange]]:
    """What is built: the model's name, the ending of the plan's name, the batch sizes it serves."""
    every = [(name, ending, batch) for name in NAMES for ending, batch in batch_ranges(settings).items()]
    return [*every, (STEP, "", settings.batch)]


EXPORTER = TensorRTExporter()
