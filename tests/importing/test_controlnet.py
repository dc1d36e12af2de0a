"""A carried ControlNet is the dense one on the kept channels, and runs in the compressed model's stock pipeline."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline
from PIL import Image

from tests.importing.pruned import SHAPES, Pair, T, pair
from tests.pruning.cases import inputs_of
from tests.pruning.reference import silenced
from tests.tiny import randomise
from toolkit.core.errors import DtkError
from toolkit.core.noise import generator, normal
from toolkit.importing.carry import carry
from toolkit.importing.controlnet import mirrored, writers

pytestmark = pytest.mark.slow  # every test needs a pruned model


@pytest.fixture(scope="module", params=list(SHAPES))
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair(tmp_path_factory.mktemp("pair"), request.param)


@pytest.fixture(scope="module")
def control(both: Pair, tmp_path_factory: pytest.TempPathFactory) -> tuple[ControlNetModel, ControlNetModel, dict]:
    """The dense ControlNet, every parameter randomised, the carried one, and what was said of it."""
    root = tmp_path_factory.mktemp("control")
    dense = ControlNetModel.from_unet(both.dense, conditioning_embedding_out_channels=(4, 8))
    randomise(dense, seed=3).save_pretrained(root / "edges")
    result = carry(root / "edges", root / "out", both.pruned)
    assert Path(result["file"]) == root / "out" / "edges"
    return dense, ControlNetModel.from_pretrained(result["file"]).eval(), result


def residuals(model: ControlNetModel, both: Pair) -> list[torch.Tensor]:
    inputs = inputs_of(both.dense, T)
    condition = torch.from_numpy(normal("condition", 0, shape=(3, 3, 16, 16)))
    with torch.no_grad():
        down, middle = model(*inputs.values(), controlnet_cond=condition, return_dict=False)
    return [*down, middle]


def readers(dense: ControlNetModel, both: Pair) -> Iterator[tuple[str, torch.nn.Module, str]]:
    """Each block that reads the time embedding and stays: its name, itself, and its new name."""
    for name, module in dense.named_modules():
        if hasattr(module, "time_emb_proj"):
            new = both.pruned.rename(f"{name}.time_emb_proj.weight")
            if new:
                yield name, module, new.removesuffix(".time_emb_proj.weight")


def test_residuals_are_the_dense_ones_on_the_kept_channels(
    both: Pair, control: tuple[ControlNetModel, ControlNetModel, dict]
) -> None:
    """With norms over the kept channels, and with the time embedding of the carried one if it had to be fitted."""
    dense, carried, result = control
    plan, layout = both.pruned.plan, mirrored(both.pruned)
    if plan.config["layers_per_block"] != both.dense.config.layers_per_block:
        pytest.skip("the dense one runs through blocks that are gone: their absence is test_blocks.py's law")
    reference = silenced(dense, layout, plan.kept, carried)
    if result["time_error"]:
        reference.time_embedding = carried.time_embedding
        for name, module, new in list(readers(reference, both)):
            module.time_emb_proj = spread(carried.get_submodule(new).time_emb_proj, plan, name, module)
    places = [plan.kept_indices(f"{w}.weight") for w in (*writers(both.dense.config), "mid_block.resnets.0.conv2")]
    for mine, whole, kept in zip(residuals(carried, both), residuals(reference, both), places, strict=True):
        torch.testing.assert_close(mine, whole[:, torch.from_numpy(kept)], rtol=1e-4, atol=1e-4)
        assert mine.abs().max() > 0.01


def spread(narrow: torch.nn.Linear, plan: object, name: str, module: torch.nn.Module) -> torch.nn.Linear:
    """The narrower layer with its outputs at the dense model's places, zero elsewhere."""
    wide = torch.nn.Linear(narrow.in_features, module.time_emb_proj.out_features)
    kept = torch.from_numpy(plan.kept_indices(f"{name}.time_emb_proj.weight"))
    with torch.no_grad():
        for own, given in ((wide.weight, narrow.weight), (wide.bias, narrow.bias)):
            own.zero_()[kept] = given
    return wide


def test_a_narrower_time_embedding_says_the_same_to_every_block(
    both: Pair, control: tuple[ControlNetModel, ControlNetModel, dict]
) -> None:
    dense, carried, result = control
    embeddings = []
    for model in (dense, carried):
        with torch.no_grad():
            embeddings.append(torch.nn.functional.silu(model.time_embedding(model.time_proj(torch.arange(T)))))
    seen = 0
    for name, module, new in readers(dense, both):
        kept = torch.from_numpy(both.pruned.plan.kept_indices(f"{name}.time_emb_proj.weight"))
        wanted = module.time_emb_proj(embeddings[0])[:, kept]
        found = carried.get_submodule(new).time_emb_proj(embeddings[1])
        assert (found - wanted).abs().max() <= 1e-3 * wanted.abs().max()
        seen += 1
    assert seen >= 4 and result["time_error"] < 1e-3
    whole = both.pruned.plan.config["block_out_channels"][0] == both.dense.config.block_out_channels[0]
    assert (result["time_error"] == 0) == whole


def test_the_stock_pipeline_runs_with_it(both: Pair, control: tuple[ControlNetModel, ControlNetModel, dict]) -> None:
    _, carried, result = control
    gone = [n for n, w in enumerate(writers(both.dense.config)) if not both.pruned.rename(f"{w}.weight")]
    zero = [name for name in result["removed"] if name.startswith("controlnet_down_blocks.")]
    assert sorted(zero) == [f"controlnet_down_blocks.{number}" for number in gone]
    pipeline = StableDiffusionControlNetPipeline(
        **{**both.pipeline().components, "image_encoder": None}, controlnet=carried, requires_safety_checker=False
    )
    pipeline.set_progress_bar_config(disable=True)
    image = Image.fromarray(generator("edges", 0).integers(0, 256, (16, 16, 3), dtype=np.uint8))

    def run(scale: float) -> np.ndarray:
        torch.manual_seed(0)
        options = {"num_inference_steps": 2, "controlnet_conditioning_scale": scale, "output_type": "np"}
        return pipeline("a cat", image=image, height=16, width=16, **options).images

    assert np.isfinite(run(1.0)).all() and np.abs(run(1.0) - run(0.0)).max() > 0.01


def test_one_of_another_model_is_refused(both: Pair, tmp_path: Path) -> None:
    other = ControlNetModel.from_unet(both.dense, conditioning_embedding_out_channels=(4, 8))
    config = {**other.config, "block_out_channels": (16, 64)}
    ControlNetModel.from_config(config).save_pretrained(tmp_path / "other")
    with pytest.raises(DtkError, match=r"was made for another model[\s\S]*expected: "):
        carry(tmp_path / "other", tmp_path / "out", both.pruned)
