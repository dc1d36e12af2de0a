"""A model's weights as fp16 safetensors shards that are small enough to carry, and back."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

SHARD_BYTES = 15 * 10**6


def pack(model: Path, folder: Path, shard_bytes: int = SHARD_BYTES) -> list[Path]:
    """Write the UNet of the diffusers folder ``model`` as fp16 shards into ``folder``, its configs next to them."""
    state = load_file(model / "unet" / "diffusion_pytorch_model.safetensors")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    shards: list[dict[str, torch.Tensor]] = [{}]
    for name, tensor in state.items():
        half = tensor.half()
        if not torch.isfinite(half).all():
            raise SystemExit(f"{name} does not fit into fp16.")
        if sum(map(_bytes, shards[-1].values())) + _bytes(half) > shard_bytes and shards[-1]:
            shards.append({})
        shards[-1][name] = half
    paths = [folder / f"unet-{number:02}-of-{len(shards):02}.safetensors" for number in range(1, len(shards) + 1)]
    for path, shard in zip(paths, shards, strict=True):
        save_file(shard, path)
    return paths


def unpack(folder: Path, model: Path) -> Path:
    """The diffusers folder (fp32) of what ``pack`` wrote. Raises SystemExit where a shard is missing."""
    shards = sorted(folder.glob("unet-*-of-*.safetensors"))
    count = int(shards[0].stem.rsplit("-", 1)[1]) if shards else 0
    if not shards or len(shards) != count:
        raise SystemExit(f"{folder} holds {len(shards)} of {count or 'no'} shards.")
    state = {name: tensor.float() for shard in shards for name, tensor in load_file(shard).items()}
    shutil.copytree(folder, model, ignore=shutil.ignore_patterns("*.safetensors"))
    save_file(state, model / "unet" / "diffusion_pytorch_model.safetensors")
    return model


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()
