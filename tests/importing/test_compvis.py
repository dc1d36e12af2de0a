"""Checkpoints of CompVis latent diffusion: written in that layout by an inverse map of their own, and read back."""

from __future__ import annotations

import sys
import types
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel, UNet2DModel, VQModel

from benchmarks.cifar10.shapes import SHAPES
from tests.tiny import randomise
from toolkit.adapters.inputs import example_inputs, input_specs
from toolkit.core.errors import DtkError
from toolkit.importing.convert import convert
from toolkit.models.autoencoder import find_autoencoder
from toolkit.models.build import load_denoiser
from toolkit.models.conditioning import find_conditioning
from toolkit.models.folder import find_model
from toolkit.models.schedulers import load_scheduler

HEAD = 32
RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def unet(context: bool) -> torch.nn.Module:
    attention = "CrossAttn" if context else "Attn"
    config: dict = {
        "sample_size": 8,
        "in_channels": 3,
        "out_channels": 3,
        "layers_per_block": 1,
        "block_out_channels": (32, 64),
        "down_block_types": ("DownBlock2D", f"{attention}DownBlock2D"),
        "up_block_types": (f"{attention}UpBlock2D", "UpBlock2D"),
    }
    kind = UNet2DConditionModel if context else UNet2DModel
    extra = {"cross_attention_dim": 16, "attention_head_dim": 1} if context else {"attention_head_dim": HEAD}
    return randomise(kind(**config, **extra))


def in_compvis_layout(model: torch.nn.Module) -> dict[str, torch.Tensor]:  # noqa: C901 - one map, top to bottom
    """The denoiser's tensors under their CompVis names: places of a flat list, counted along the forward pass."""
    places = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
    places |= {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
    places |= {"mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1"}
    places |= {"mid_block.resnets.1": "middle_block.2"}
    number = 1
    for i, block in enumerate(model.down_blocks):
        for j in range(len(block.resnets)):
            places[f"down_blocks.{i}.resnets.{j}"] = f"input_blocks.{number}.0"
            places[f"down_blocks.{i}.attentions.{j}"] = f"input_blocks.{number}.1"
            number += 1
        if block.downsamplers:
            places[f"down_blocks.{i}.downsamplers.0.conv"] = f"input_blocks.{number}.0.op"
            number += 1
    number = 0
    for i, block in enumerate(model.up_blocks):
        for j in range(len(block.resnets)):
            places[f"up_blocks.{i}.resnets.{j}"] = f"output_blocks.{number}.0"
            places[f"up_blocks.{i}.attentions.{j}"] = f"output_blocks.{number}.1"
            number += 1
        if block.upsamplers:
            second = 2 if hasattr(block, "attentions") else 1
            places[f"up_blocks.{i}.upsamplers.0.conv"] = f"output_blocks.{number - 1}.{second}.conv"
    state = model.state_dict()
    found = {}
    for name, tensor in state.items():
        place = next(p for p in sorted(places, key=len, reverse=True) if name.startswith(f"{p}."))
        rest = name.removeprefix(f"{place}.")
        part, _, leaf = rest.partition(".")
        if ".resnets." in name:
            rest = f"{RESNET[part]}.{leaf}"
        elif ".attentions." in name and isinstance(model, UNet2DModel):
            if part in ("to_k", "to_v"):
                continue
            if part == "to_q":
                stem = name.removesuffix(f"to_q.{leaf}")
                qkv = [state[f"{stem}{p}.{leaf}"].unflatten(0, (-1, HEAD)) for p in ("to_q", "to_k", "to_v")]
                rest, tensor = f"qkv.{leaf}", torch.stack(qkv, 1).flatten(0, 2)
            else:
                rest = {"group_norm": "norm.", "to_out": "proj_out."}[part] + leaf.removeprefix("0.")
            tensor = tensor[:, :, None] if tensor.ndim == 2 else tensor
        found[f"model.diffusion_model.{places[place]}.{rest}"] = tensor
    return found


@cache
def autoencoder(kind: type[VQModel] | type[AutoencoderKL] = VQModel) -> torch.nn.Module:
    config = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    extra = {"num_vq_embeddings": 20} if kind is VQModel else {"latent_channels": 3}
    return randomise(kind(**config, **extra, block_out_channels=(32, 64), scaling_factor=1.0))


def autoencoder_in_compvis_layout(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    found = {}
    for name, tensor in model.state_dict().items():
        new = name.replace("mid_block.resnets.0", "mid.block_1").replace("mid_block.resnets.1", "mid.block_2")
        for i in range(2):
            new = new.replace(f"down_blocks.{i}.resnets", f"down.{i}.block").replace(
                f"down_blocks.{i}.downsamplers.0", f"down.{i}.downsample"
            )
            new = new.replace(f"up_blocks.{i}.resnets", f"up.{1 - i}.block").replace(
                f"up_blocks.{i}.upsamplers.0", f"up.{1 - i}.upsample"
            )
        if "mid_block.attentions.0" in new:
            for theirs, ours in {
                "norm": "group_norm",
                "proj_out": "to_out.0",
                "q": "to_q",
                "k": "to_k",
                "v": "to_v",
            }.items():
                new = new.replace(f"mid_block.attentions.0.{ours}.", f"mid.attn_1.{theirs}.")
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        new = new.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        found[f"first_stage_model.{new}"] = tensor
    return found


def checkpoint(denoiser: torch.nn.Module, kind: type[VQModel] | type[AutoencoderKL] = VQModel) -> dict:
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64).square().float()
    return {"betas": betas, **in_compvis_layout(denoiser), **autoencoder_in_compvis_layout(autoencoder(kind))}


def predict(model: torch.nn.Module) -> torch.Tensor:
    inputs = example_inputs(input_specs(type(model).__name__, model.config, tokens=1), batch=2)
    with torch.no_grad():
        return model(**inputs).sample


@pytest.mark.parametrize(
    ("context", "kind", "place"),
    [(True, VQModel, "vqvae"), (False, VQModel, "vqvae"), (False, AutoencoderKL, "vae")],
    ids=["LDM-4 on classes", "unconditional", "unconditional, KL"],
)
def test_what_was_written_is_read_back(
    context: bool,
    kind: type[VQModel] | type[AutoencoderKL],
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    denoiser = unet(context)
    tensors = checkpoint(denoiser, kind)
    classes = torch.arange(6 * 16.0).reshape(6, 16)
    if context:
        tensors["cond_stage_model.embedding.weight"] = classes
    torch.save({"state_dict": tensors, "callbacks": {lightning(monkeypatch): {}}}, tmp_path / "model.ckpt")
    made = convert(tmp_path / "model.ckpt", tmp_path / "model", size=8)
    folder = find_model(tmp_path / "model")
    assert made["class"] == folder.class_name == type(denoiser).__name__
    imported = load_denoiser(folder)
    assert torch.equal(predict(imported), predict(denoiser))
    images = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)
    stage = kind.from_pretrained(tmp_path / "model" / place).eval()
    with torch.no_grad():
        assert torch.equal(stage(images).sample, autoencoder(kind)(images).sample)
    found = find_autoencoder(folder)
    assert found is not None and found.path == tmp_path / "model" / place
    scheduler = load_scheduler(folder)
    torch.testing.assert_close(scheduler.betas, tensors["betas"])
    assert find_conditioning(folder).kind == ("class" if context else "none")
    if context:
        assert imported.config.attention_head_dim == SHAPES["ldm4-64"][1]["attention_head_dim"] == 1
        assert find_conditioning(folder).classes == 5  # the last row is the null class


def test_the_average_is_what_sampling_uses(tmp_path: Path) -> None:
    """LitEma keeps the averages beside the weights, under their names without dots."""
    denoiser = unet(False)
    tensors = checkpoint(denoiser)
    averages = {
        "model_ema." + name.removeprefix("model.").replace(".", ""): 0.5 * tensor
        for name, tensor in tensors.items()
        if name.startswith("model.diffusion_model.")
    }
    beside = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(5)}
    torch.save({"state_dict": tensors | averages | beside}, tmp_path / "model.ckpt")
    for weights, factor in (("ema", 0.5), ("plain", 1.0)):
        convert(tmp_path / "model.ckpt", tmp_path / weights, weights=weights, size=8)
        state = load_denoiser(find_model(tmp_path / weights)).state_dict()
        assert all(torch.equal(state[name], factor * tensor) for name, tensor in denoiser.state_dict().items())


def lightning(monkeypatch: pytest.MonkeyPatch) -> type:
    """The class that Lightning's checkpoints mention; it is not installed when they are read."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = types.ModuleType(name)
    mentioned = type("ModelCheckpoint", (), {"__module__": name})
    module.ModelCheckpoint = mentioned
    for part in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    monkeypatch.setitem(sys.modules, name, module)
    return mentioned


def test_a_text_model_is_sent_to_diffusers(tmp_path: Path) -> None:
    torch.save({"state_dict": checkpoint(unet(True))}, tmp_path / "model.ckpt")
    with pytest.raises(DtkError, match=r"something else than classes[\s\S]*StableDiffusionPipeline.from_single_file"):
        convert(tmp_path / "model.ckpt", tmp_path / "model")


def test_another_schedule_is_refused(tmp_path: Path) -> None:
    tensors = checkpoint(unet(False)) | {"betas": torch.linspace(1e-4, 0.02, 1000)}
    torch.save({"state_dict": tensors}, tmp_path / "model.ckpt")
    with pytest.raises(DtkError, match="does not know this noise schedule"):
        convert(tmp_path / "model.ckpt", tmp_path / "model")
