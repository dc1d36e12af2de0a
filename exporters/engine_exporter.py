"""The engines of a run: models, step graph, and the decoder and text encoder of a latent model."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporters.base import NAMES, Exported
from exporters.component_parity import hold_engine
from exporters.engine_cache import CachedEngine
from exporters.engine_config import check, check_bf16, command, profile_shapes
from exporters.engines import Items, build_engine, engine_facts, timings, write
from exporters.ladder import Ladder
from exporters.layer_comparison import differing_layers
from exporters.parity import TOLERANCES, ParityError
from exporters.settings import BatchRange, ExportSettings
from toolkit.core.errors import MissingToolError
from toolkit.core.files import read_json, value_sha256
from toolkit.core.progress import Progress
from toolkit.diffusion.step_loop import STEP
from toolkit.models.folder import ModelFolder
from toolkit.runners.tensorrt_api import TensorRT, has_gpu, load_tensorrt

TIMINGS = "timing.cache"
AROUND = {"decoder": "latents", "conditioner": "input_ids"}
"""What gets an engine besides the denoiser, if it takes that input: a class embedding is a table, no work for one."""


@dataclass(frozen=True)
class Wanted:
    """An engine to build: of which ONNX file, the ending of its name, the batch sizes it serves."""

    name: str
    ending: str
    batch: BatchRange
    items: Items = field(default_factory=dict)

    @property
    def file(self) -> str:
        return f"{self.name}{self.ending}.plan"


def batch_ranges(settings: ExportSettings) -> dict[str, BatchRange]:
    """The ranges to build an engine for, by the ending of its name: the whole, and each single shape if requested."""
    whole, sizes = settings.batch, sorted({settings.batch.min, settings.batch.opt, settings.batch.max})
    single = {f"-b{size}": BatchRange(min=size, opt=size, max=size) for size in sizes}
    return {"": whole} | (single if settings.engine.one_per_shape else {})


def wanted(exported: Exported) -> list[Wanted]:
    """The engines of a run: both models', the step graph's, and those of the decoder and the text encoder.

    A graph of several outputs, as SDXL's text encoders are, stays with ONNX Runtime: it runs once per caption.
    """
    onnx, settings = exported.onnx, exported.settings
    every = [Wanted(name, ending, batch) for name in NAMES for ending, batch in batch_ranges(settings).items()]
    every.append(Wanted(STEP, "", settings.batch))
    for name, fed in AROUND.items():
        if name in onnx and fed in onnx[name]["inputs"] and len(onnx[name]["outputs"]) == 1:
            latent = tuple(onnx[STEP]["inputs"]["sample"]["shape"][1:])
            items = {fed: latent} if name == "decoder" else {}
            every.append(Wanted(name, "", settings.batch.model_copy(update={"min": 1}), items))
    return every


class TensorRTExporter:
    """RUN/tensorrt/{dense,compressed,compressed_step}.plan, a .json next to each; of latent models also the decoder's.

    The .json holds the call of trtexec that repeats the build, to be given in RUN. With a GPU there are also what the
    inspector says of the layers (.layers.json), ``timing.cache`` and in the .json ``parity``: engines are held against
    torch, except that of the step graph, which is a server's, which serves any batch and compares its known image.
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
        if settings.dtype == "bf16":
            check_bf16(settings.engine)
        with contextlib.suppress(MissingToolError):  # said once the ONNX files are in place
            check(load_tensorrt(), settings.engine)

    def inputs(self, exported: Exported) -> tuple[dict[str, Any], dict[str, str]]:
        api, settings = load_tensorrt(), exported.settings
        facts = {one.name: engine_facts(api, exported.onnx[one.name], settings, one.items) for one in wanted(exported)}
        return settings.engine.model_dump(mode="json"), {name: value_sha256(fact) for name, fact in facts.items()}

    def write(self, folder: Path, exported: Exported, progress: Progress) -> dict[str, Any]:
        api = load_tensorrt()
        for one in wanted(exported):
            description = exported.onnx[one.name]
            settings = exported.settings.model_copy(update={"batch": one.batch})
            onnx = exported.run / description["file"]
            engine = build_engine(api, onnx, description, settings, progress, items=one.items)
            parity = self._parity(exported, one, settings, engine) if has_gpu() else None
            words = self._command(api, description, one, settings)
            write(engine, folder / one.file, **words, **({"parity": parity} if parity else {}))
        if timings(api).is_file():
            shutil.copyfile(timings(api), folder / TIMINGS)
        return {}

    def _command(
        self, api: TensorRT, description: dict[str, Any], one: Wanted, settings: ExportSettings
    ) -> dict[str, Any]:
        shapes = profile_shapes(description["inputs"], one.batch, one.items)
        places = {"onnx": description["file"], "plan": f"{self.folder}/{one.file}"}
        timing = f"{self.folder}/{TIMINGS}" if timings(api).is_file() else None
        return {"command": command(api, shapes, settings.engine, timing=timing, **places)}

    def _parity(
        self, exported: Exported, one: Wanted, settings: ExportSettings, engine: CachedEngine
    ) -> dict[str, Any] | None:
        """The engine against torch, kept with the engine; nothing for the step graph's."""
        if one.name == STEP:
            return None
        model, onnx = exported.models.get(one.name, exported.models["compressed"]), exported.onnx[one.name]["file"]
        key = value_sha256([model.sha256, settings.model_dump(include={"seed", "loop_steps", "loop_images", "tokens"})])
        path = exported.run / onnx

        def held() -> dict[str, Any]:
            try:
                if one.name in AROUND:
                    return hold_engine(model, one.name, engine.plan, path, settings)
                return Ladder(model, settings, one.name, device="cuda").engine(engine.plan, path)
            except ParityError as error:
                shapes = profile_shapes(exported.onnx[one.name]["inputs"], one.batch, one.items)
                log, rtx = exported.run / f"layers-{one.name}.log", load_tensorrt().rtx
                layers = differing_layers(path, shapes, TOLERANCES[settings.dtype], log, rtx=rtx)
                raise ParityError(str(error), do=layers) from error

        compared: dict[str, Any] = engine.finding(f"parity {key[:16]}", held)
        return compared

    def result(self, exported: Exported, record: Mapping[str, Any]) -> dict[str, Any]:
        folder = exported.run / self.folder
        files = [folder / one.file for one in wanted(exported)]
        return {
            path.stem: {"file": f"{self.folder}/{path.name}"} | read_json(path.with_suffix(".json")) for path in files
        }


EXPORTER = TensorRTExporter()
