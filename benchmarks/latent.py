"""Make a small latent model to compress: ``python benchmarks/latent.py DATA OUT [--steps N]``.

Trains an AutoencoderKL (64x64 to 16x16x4) on DATA, a folder or zip with one subfolder a class, and writes the folder
OUT: ``vae``, ``scheduler``, a fresh class-conditional ``unet``, and ``class_embedding.safetensors`` next to them. The
embedding is a fixed random table: the cross-attention learns to read it. Then recipes/latent-train.yaml trains the
denoiser and recipes/latent.yaml compresses it. An interrupted training resumes at its last checkpoint.

The loss is L1 plus a small Kullback-Leibler term, without the perceptual and adversarial terms of Rombach et al.
(2022), so its images are soft. What it costs in quality stands next to the figures: the reconstruction's PSNR.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file

from toolkit.core.files import replacing, value_sha256, write_json
from toolkit.core.noise import generator, normal
from toolkit.data.images import Images
from toolkit.data.open import open_images, split
from toolkit.recovery.state import State, restore, save_checkpoint

SHAPE = (3, 64, 64)
CONTEXT = 32  # width of a class's vector
KL_WEIGHT = 1e-6
LEVELS = 3


def autoencoder() -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(
        block_out_channels=(16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * LEVELS,
        up_block_types=("UpDecoderBlock2D",) * LEVELS,
        layers_per_block=1,
        norm_num_groups=8,
        latent_channels=4,
        sample_size=64,
        mid_block_add_attention=False,
    )


def denoiser() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=4,
        cross_attention_dim=CONTEXT,
    )


def train(model: AutoencoderKL, images: Images, folder: Path, steps: int, batch: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, foreach=True)
    state = State(model, {name: p.detach().clone() for name, p in model.named_parameters()}, optimizer)
    identity = value_sha256([dict(model.config), images.fingerprint, batch, steps])
    restore(folder, state, identity, steps)
    while state.step < steps:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (state.step + 1) / 20) * (1 - state.step / steps)
        loss = _step(model, images, state.step, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state.step += 1
        state.update_average(min(0.99, (1 + state.step) / (10 + state.step)))
        if state.step % 25 == 0 or state.step == steps:
            print(f"autoencoder: step {state.step} of {steps}, loss {float(loss.detach()):.4f}", flush=True)
            save_checkpoint(folder, state, identity, keep=1)
    model.load_state_dict({**model.state_dict(), **state.average})


def _step(model: AutoencoderKL, images: Images, step: int, batch: int) -> torch.Tensor:
    draw = generator("autoencoder", 0, step)
    indices = draw.integers(len(images), size=batch).tolist()
    clean = torch.from_numpy(images.read(indices, (draw.random(batch) < 0.5).tolist()))
    found = model.encode(clean).latent_dist
    noise = torch.from_numpy(normal("autoencoder latents", 0, step, shape=tuple(found.mean.shape)))
    restored = model.decode(found.mean + found.std * noise).sample
    return (restored - clean).abs().mean() + KL_WEIGHT * found.kl().mean()


@torch.no_grad()
def judge(model: AutoencoderKL, images: Images) -> tuple[float, float]:
    """The latents' standard deviation, and the mean PSNR in dB of restored held-out images with pixels in [-1, 1]."""
    clean = torch.from_numpy(images.read(range(min(256, len(images)))))
    latents = model.encode(clean).latent_dist.mean
    squared = (model.decode(latents).sample.clamp(-1, 1) - clean).square().flatten(1).mean(1)
    return float(latents.std()), float((10 * torch.log10(4 / squared)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    images, held_out = split(open_images(options.data, SHAPE), 0.1, 0)  # as the recipes split
    model = autoencoder()
    train(model, images, options.out.parent / f"{options.out.name}-training", options.steps, options.batch)
    deviation, psnr_db = judge(model, held_out)
    model.register_to_config(scaling_factor=1 / deviation)
    classes = len(set(images.conditions("class", range(len(images)))))
    table = np.concatenate([normal("class embedding", 0, shape=(classes, CONTEXT)), np.zeros((1, CONTEXT), np.float32)])
    with replacing(options.out) as folder:
        model.save_pretrained(folder / "vae")
        denoiser().save_pretrained(folder / "unet")
        DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False).save_pretrained(folder / "scheduler")
        save_file({"embedding.weight": torch.from_numpy(table)}, folder / "class_embedding.safetensors")
        facts = {"steps": options.steps, "batch": options.batch, "held_out_psnr_db": psnr_db, "classes": classes}
        write_json(folder / "autoencoder.json", facts)
    print(f"latents' standard deviation {deviation:.3f}, held-out PSNR {psnr_db:.2f} dB, {classes} classes")


if __name__ == "__main__":
    main()
