"""``dtk carry`` on a run: the command and the function say the same, and what they write fits RUN/model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import toolkit
from tests.cli.conftest import dtk
from tests.latent import tiny_stable_diffusion
from toolkit.models.build import load_denoiser
from toolkit.models.folder import find_model

LAYERS = ("conv_in", "mid_block.attentions.0.transformer_blocks.0.attn2.to_q", "up_blocks.1.resnets.1.conv1")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> toolkit.Run:
    root = tmp_path_factory.mktemp("carry")
    tiny_stable_diffusion(root / "model")
    options = {"criterion": "magnitude", "target": "width=0.75", "align": 4, "recover": False}
    return toolkit.compress(root / "model", out=root / "run", **options)


@pytest.mark.slow
def test_what_is_written_fits_the_compressed_model(run: toolkit.Run, tmp_path: Path) -> None:
    dense = load_denoiser(find_model(run.folder.parent / "model"))
    shapes = {name: dense.get_submodule(name).weight.shape for name in LAYERS}
    lora = {f"unet.{name}.lora_A.weight": torch.ones(2, *shape[1:]) for name, shape in shapes.items()}
    lora |= {f"unet.{n}.lora_B.weight": torch.ones(s[0], 2, *[1] * (len(s) - 2)) for n, s in shapes.items()}
    save_file(lora, tmp_path / "lora.safetensors")
    result = run.carry(tmp_path / "lora.safetensors", out=tmp_path / "out")
    assert result.kind == "LoRA" and result.removed == {}
    carried, compressed = load_file(result.file), run.model()
    for name in LAYERS:
        down, up = (carried[f"unet.{name}.lora_{factor}.weight"] for factor in "AB")
        weight = compressed.get_submodule(name).weight
        assert (up.flatten(1) @ down.flatten(1)).shape == weight.flatten(1).shape
    answer = dtk("carry", tmp_path / "lora.safetensors", run.folder, "-o", tmp_path / "out", "--json")
    assert answer.code == 0 and answer.json == result.to_json()
    words = dtk("carry", tmp_path / "lora.safetensors", run.folder, "-o", tmp_path / "out").out
    assert "LoRA: 3 layers sliced, 0 unchanged" in words and "load_lora_weights(" in words
