"""The table of published sizes, to the digit, through the command on a config alone: no weights, no data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.pruning.cases import D, U
from tests.pruning.published import PUBLISHED
from toolkit.cli import app

CROSS_DOWN, CROSS_UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
LDM_4 = {"sample_size": 64, "layers_per_block": 2, "cross_attention_dim": 512, "attention_head_dim": 1} | {
    "block_out_channels": (192, 384, 576, 960),
    "down_block_types": (D, CROSS_DOWN, CROSS_DOWN, CROSS_DOWN),
    "up_block_types": (CROSS_UP, CROSS_UP, CROSS_UP, U),
}


SDXL = {
    "in_channels": 4,
    "out_channels": 4,
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": (D, CROSS_DOWN, CROSS_DOWN),
    "up_block_types": (CROSS_UP, CROSS_UP, U),
    "layers_per_block": 2,
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
REFINER = SDXL | {
    "block_out_channels": (384, 768, 1536, 1536),
    "down_block_types": (D, CROSS_DOWN, CROSS_DOWN, D),
    "up_block_types": (U, CROSS_UP, CROSS_UP, U),
    "transformer_layers_per_block": 4,
    "attention_head_dim": (6, 12, 24, 24),
    "cross_attention_dim": 1280,
    "projection_class_embeddings_input_dim": 2560,
}


def planned(folder: Path, class_name: str, config: dict, *options: str) -> dict:
    (folder / "unet").mkdir()
    text = json.dumps({"_class_name": class_name, "in_channels": 3, "out_channels": 3, **config})
    (folder / "unet" / "config.json").write_text(text)
    found = CliRunner().invoke(app, ["compress", str(folder), "--dry-run", "--json", *options])
    assert found.exit_code == 0, found.output
    plan: dict = json.loads(found.stdout)
    assert plan["chosen_by"].startswith("width")
    for model in ("dense", "achieved"):
        assert sum(level[model] for level in plan["macs_by_level"].values()) == plan[model]["macs"]
    return plan


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_three_quarters_of_a_published_ddpm(name: str, tmp_path: Path) -> None:
    config, (params, macs, compressed_params, compressed_macs) = PUBLISHED[name]
    plan = planned(tmp_path, "UNet2DModel", config, "--target", "width=0.75")
    assert [width["achieved"] / width["dense"] for width in plan["widths"]] == [0.75] * len(plan["widths"])
    assert plan["dense"]["params"] == pytest.approx(params, rel=1e-4)
    assert plan["dense"]["macs"] == pytest.approx(macs, rel=1e-4)
    assert plan["achieved"]["params"] == compressed_params
    assert plan["achieved"]["macs"] == pytest.approx(compressed_macs, rel=1e-4)


@pytest.mark.slow
def test_ldm_4_by_target_with_one_token(tmp_path: Path) -> None:
    plan = planned(tmp_path, "UNet2DConditionModel", LDM_4, "--target", "macs=0.57", "--tokens", "1")
    assert plan["dense"]["params"] == pytest.approx(400.92e6, rel=1e-4)
    assert plan["dense"]["macs"] == pytest.approx(104.227e9, rel=1e-4)
    assert plan["achieved"]["macs_fraction"] == pytest.approx(0.57, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "options", "params"),
    [
        (SDXL, ("--preset", "ssd-1b"), (2_567_463_684, 1_331_334_404)),
        (SDXL, ("--preset", "segmind-vega"), (2_567_463_684, 745_225_604)),
        (SDXL, ("--target", "width=0.75"), (2_567_463_684, 1_517_586_148)),
        (REFINER, ("--target", "width=0.75"), (2_259_526_660, None)),
    ],
)
def test_sdxl_its_refiner_and_the_published_smaller_ones(
    config: dict, options: tuple[str, ...], params: tuple[int, int | None], tmp_path: Path
) -> None:
    plan = planned(tmp_path, "UNet2DConditionModel", config, *options)
    assert plan["dense"]["params"] == params[0]
    assert params[1] is None or plan["achieved"]["params"] == params[1]
    assert 0 < plan["achieved"]["macs_fraction"] < 0.7
