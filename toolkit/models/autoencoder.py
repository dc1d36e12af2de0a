"""The autoencoder of a latent model, between images and the latents that the denoiser works on.

Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (CVPR 2022), section 3.1. It lies in the
pipeline folder as ``vae`` or ``vqvae``; toolkit.models.decoder has what is pruned of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

from toolkit.core.errors import DtkError
from toolkit.core.files import folder_sha256, read_json, value_sha256
from toolkit.models.build import built_config
from toolkit.models.folder import ModelFolder
from toolkit.models.weights import load_module

PLACES = ("vae", "vqvae")
CLASSES = ("AutoencoderKL", "VQModel", "AutoencoderKLFlux2")
BATCH = 16  # images through the autoencoder at once: its activations are those of full-size images

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class AutoencoderFolder:
    """Where an autoencoder lies, and what its config says; holds no weights."""

    path: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = read_json(self.path / "config.json")
        return config

    @property
    def class_name(self) -> str:
        return str(self.config.get("_class_name"))

    @cached_property
    def full_config(self) -> dict[str, Any]:
        """The configuration with the defaults of its class."""
        return built_config(self.class_name, self.config)

    @cached_property
    def sha256(self) -> str:
        """One hash over every file of the folder."""
        return value_sha256(folder_sha256(self.path))

    @property
    def latent_channels(self) -> int:
        return int(self.config.get("vq_embed_dim") or self.config["latent_channels"])

    def image_shape(self, latent: Shape) -> Shape:
        """(C, H, W) of the images whose latents have the shape ``latent``."""
        return _image_shape(self.config, latent)


class Autoencoder:
    """An autoencoder on ``device``, float32 in eval mode: images to latents as the denoiser takes them, and back.

    ``module`` is the diffusers module itself, ``latent_map`` the affine map between its values and latents.
    """

    def __init__(self, module: Any, device: str = "cpu") -> None:
        self.device = device
        self.module: Any = module.to(device)
        self.module.requires_grad_(False)
        self.latent_map = LatentMap(self.module.config).to(device)

    @classmethod
    def load(cls, folder: AutoencoderFolder, device: str = "cpu") -> Autoencoder:
        """The autoencoder of a folder with its weights. Raises DtkError if they are damaged."""
        return cls(load_module(folder.path, getattr(diffusers, folder.class_name)), device)

    @property
    def factor(self) -> int:
        """How many pixels of an image's side one latent stands for."""
        return _factor(self.module.config)

    def image_shape(self, latent: Shape) -> Shape:
        """(C, H, W) of the images whose latents have the shape ``latent``."""
        return _image_shape(self.module.config, latent)

    def encode(self, images: torch.Tensor, batch: int = BATCH) -> torch.Tensor:
        """Latents float32 (B, c, h, w) of images (B, C, H, W) in [-1, 1].

        Of AutoencoderKL's distribution the mode is taken, of VQModel's output the values before quantisation, which
        the decoder does by itself.
        """
        return self._in_batches(lambda part: self.latent_map.to_latents(encoded(self.module, part)), images, batch)

    def decode(self, latents: torch.Tensor, batch: int = BATCH) -> torch.Tensor:
        """Images float32 (B, C, H, W) around [-1, 1], not clipped, of latents (B, c, h, w)."""
        return self._in_batches(self._decode, latents, batch)

    def before_decoder(self, latents: torch.Tensor) -> torch.Tensor:
        """What the decoder itself is given for latents (B, c, h, w), of the same shape."""
        convolution, values = self.module.post_quant_conv, self.latent_map.to_values(latents)
        given: torch.Tensor = values if convolution is None else convolution(values)
        return given

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        images: torch.Tensor = self.module.decode(self.latent_map.to_values(latents), return_dict=False)[0]
        return images

    def _in_batches(self, function: Any, items: torch.Tensor, batch: int) -> torch.Tensor:
        with torch.inference_mode():
            parts = [function(part.to(self.device)) for part in items.split(batch)]
        return torch.cat(parts).clone()  # an ordinary tensor: training may ask for gradients behind it


class LatentMap(nn.Module):
    """latents = (values - mean) x scale, so that latents have about unit variance.

    Mean and scale are per channel if the config has ``latents_mean`` and ``latents_std``, as SDXL's has.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        mean, scale = _mean_and_scale(config)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def to_latents(self, values: torch.Tensor) -> torch.Tensor:
        """Latents (B, c, h, w) of the autoencoder's values."""
        return (values - self.mean) * self.scale

    def to_values(self, latents: torch.Tensor) -> torch.Tensor:
        """The autoencoder's values (B, c, h, w) of latents."""
        return latents / self.scale + self.mean


def encoded(module: Any, images: torch.Tensor) -> torch.Tensor:
    """What an AutoencoderKL (its mode) or a VQModel (before quantisation) makes of images."""
    output = module.encode(images)
    values: torch.Tensor = output.latents if hasattr(output, "latents") else output.latent_dist.mode()
    return values


def _factor(config: Mapping[str, Any]) -> int:
    """Every level but the last halves an image's side."""
    return int(2 ** (len(config["block_out_channels"]) - 1))


def _image_shape(config: Mapping[str, Any], latent: Shape) -> Shape:
    factor = _factor(config)
    return config["in_channels"], latent[1] * factor, latent[2] * factor


def find_autoencoder(model: ModelFolder) -> AutoencoderFolder | None:
    """The autoencoder next to the denoiser, None for a model of pixels.

    Raises DtkError for an autoencoder of a class that is not known, or one whose latents the denoiser does not take.
    """
    places = [model.root / name for name in PLACES if model.component and (model.root / name / "config.json").is_file()]
    if not places:
        return None
    folder = AutoencoderFolder(places[0])
    if folder.class_name not in CLASSES:
        raise DtkError(
            f"dtk does not know the autoencoder class {folder.class_name}.",
            found=folder.path / "config.json",
            expected=f"one of {', '.join(CLASSES)}",
        )
    if folder.latent_channels != model.config.get("in_channels"):
        raise DtkError(
            f"The denoiser of {model.root} does not take its autoencoder's latents and nothing else.",
            found=f"{model.config.get('in_channels')} input channels",
            expected=f"{folder.latent_channels}, as the latents of {folder.path.name} have",
        )
    return folder


def image_shape(model: ModelFolder) -> Shape:
    """(C, H, W) of the images the model makes: what its denoiser takes, or what its autoencoder makes of that."""
    channels, height, width = model.input_specs()["sample"].shape
    autoencoder = find_autoencoder(model)
    return autoencoder.image_shape((channels, height, width)) if autoencoder else (channels, height, width)


def open_autoencoder(model: ModelFolder, device: str = "cpu") -> Autoencoder | None:
    """The autoencoder of a latent model with its weights, None for a model of pixels."""
    folder = find_autoencoder(model)
    return Autoencoder.load(folder, device) if folder else None


def _mean_and_scale(config: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The affine map of latents: ``latents_mean`` and ``latents_std`` per channel if they are given, as in SDXL's."""
    mean, std = config.get("latents_mean"), config.get("latents_std")
    if (mean is None) != (std is None):
        raise DtkError(
            "The autoencoder's config has only one of latents_mean and latents_std.",
            expected="both of them, or neither",
        )
    if mean is not None:
        return torch.tensor(mean).view(1, -1, 1, 1), config["scaling_factor"] / torch.tensor(std).view(1, -1, 1, 1)
    if config.get("scaling_factor") is None:
        raise DtkError("The autoencoder's config does not say how latents are scaled.", expected="scaling_factor")
    return torch.tensor(config.get("shift_factor") or 0.0), torch.tensor(config["scaling_factor"])
