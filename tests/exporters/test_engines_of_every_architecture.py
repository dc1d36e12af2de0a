"""A real engine in half precision, built without a GPU, for each architecture and for what stands around it."""

from __future__ import annotations

from pathlib import Path

import pytest
from diffusers import DDIMScheduler

from exporters.component_parity import components
from exporters.engine_config import profile_shapes
from exporters.engines import Items
from exporters.onnx import describe, export_onnx
from exporters.precision import prove
from exporters.settings import BatchRange, EngineSettings
from exporters.step import export_step
from exporters.tensorrt import build_plan, collecting_logger, parse
from tests.latent import FOLDERS
from tests.tiny import ONE_BLOCK, SMALLEST_CONTEXT, tiny_conditional_unet, tiny_dit, tiny_unet
from toolkit.adapters.inputs import input_specs
from toolkit.core.progress import silent
from toolkit.runners.tensorrt_api import load_tensorrt

pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")

DENOISERS = {
    "UNet2DModel with classes": lambda: tiny_unet(num_class_embeds=3, **ONE_BLOCK),
    "DiTTransformer2DModel": lambda: tiny_dit(num_layers=2),
}


def proven(path: Path, items: Items | None = None) -> float:
    """The typed share of half precision of an engine built from the graph at ``path``, after its proof."""
    api = load_tensorrt()
    logger = collecting_logger(api)
    builder = api.module.Builder(logger)
    network = parse(api, path, builder, logger)
    batch = BatchRange(min=1, opt=2, max=2)
    shapes = profile_shapes(describe(path)["inputs"], batch, items)
    plan = build_plan(api, network, builder, logger, shapes, EngineSettings(), None, silent)
    return float(prove(api, network, path, plan, "fp16")["typed_share"])


@pytest.mark.slow
@pytest.mark.parametrize("name", DENOISERS)
def test_every_denoiser_builds(name: str, tmp_path: Path) -> None:
    model = DENOISERS[name]()
    specs = input_specs(type(model).__name__, model.config, tokens=5)
    export_onnx(model, specs, tmp_path / "model.onnx", dtype="fp16")
    assert proven(tmp_path / "model.onnx") > 0.95


@pytest.mark.slow
def test_unet2dconditionmodel_builds_inside_the_step_graph_of_a_server(tmp_path: Path) -> None:
    """With guidance: the denoiser on a batch of both halves, and the sampler's update."""
    model = tiny_conditional_unet(**SMALLEST_CONTEXT)
    specs = input_specs(type(model).__name__, model.config, tokens=5)
    export_step(model, DDIMScheduler(), specs, tmp_path / "step.onnx", dtype="fp16", guided=True, longest=2)
    assert proven(tmp_path / "step.onnx") > 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("folder", "part"), [("caption", "conditioner"), ("caption", "decoder"), ("class", "decoder")])
def test_text_encoder_and_decoder_build(folder: str, part: str, tmp_path: Path) -> None:
    model = FOLDERS[folder](tmp_path / "model")
    (component,) = (c for c in components(model) if c.name == part)
    items = {"latents": model.input_specs()["sample"].shape} if part == "decoder" else {}
    assert proven(component.write(tmp_path, dtype="fp16", opset=21), items) > 0.95
