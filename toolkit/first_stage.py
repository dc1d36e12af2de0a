"""The first stage of a latent model: the autoencoder between images and the latents that the denoiser works on.

Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (CVPR 2022), section 3.1. It is never
pruned and never trained here; it lies in the pipeline folder as ``vae`` or ``vqvae``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.denoiser_inputs import input_specs
from toolkit.errors import DtkError
from toolkit.files import folder_sha256, read_json, value_sha256
from toolkit.weights import load_module

if TYPE_CHECKING:
    import torch

    from toolkit.models import ModelFolder

PLACES = ("vae", "vqvae")
CLASSES = ("AutoencoderKL", "VQModel")
BATCH = 16  # images through the autoencoder at once: its activations are those of full-size images

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class FirstStageFolder:
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
    def sha256(self) -> str:
        """One hash over every file of the folder."""
        return value_sha256(folder_sha256(self.path))

    @property
    def factor(self) -> int:
        """How many pixels of an image's side one latent stands for: every level but the last halves it."""
        return int(2 ** (len(self.config["block_out_channels"]) - 1))

    @property
    def latent_channels(self) -> int:
        return int(self.config.get("vq_embed_dim") or self.config["latent_channels"])

    def image_shape(self, latent: Shape) -> Shape:
        """(C, H, W) of the images whose latents have the shape ``latent``."""
        return self.config["in_channels"], latent[1] * self.factor, latent[2] * self.factor


class FirstStage:
    """The autoencoder with its weights on ``device``, float32: images to latents as the denoiser takes them, and back.

    Latents are (z - ``mean``) x ``scale``, so that they have about unit variance; both are tensors (1, c, 1, 1) or of
    one element. ``module`` is the diffusers module itself, for whoever exports it.
    """

    def __init__(self, folder: FirstStageFolder, device: str = "cpu") -> None:
        import diffusers

        self.folder, self.device = folder, device
        self.module: Any = load_module(folder.path, getattr(diffusers, folder.class_name)).to(device)
        self.module.requires_grad_(False)
        self.mean, self.scale = (value.to(device) for value in _mean_and_scale(self.module.config))

    def encode(self, images: torch.Tensor, batch: int = BATCH) -> torch.Tensor:
        """Latents float32 (B, c, h, w) of images (B, C, H, W) in [-1, 1].

        Of AutoencoderKL's distribution the mode is taken, of VQModel's output the values before quantisation, which
        the decoder does by itself.
        """
        return self._in_batches(self._encode, images, batch)

    def decode(self, latents: torch.Tensor, batch: int = BATCH) -> torch.Tensor:
        """Images float32 (B, C, H, W) around [-1, 1], not clipped, of latents (B, c, h, w)."""
        return self._in_batches(self._decode, latents, batch)

    def _encode(self, images: torch.Tensor) -> torch.Tensor:
        encoded = self.module.encode(images)
        values: torch.Tensor = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        return (values - self.mean) * self.scale

    def _decode(self, latents: torch.Tensor) -> torch.Tensor:
        images: torch.Tensor = self.module.decode(latents / self.scale + self.mean, return_dict=False)[0]
        return images

    def _in_batches(self, function: Any, items: torch.Tensor, batch: int) -> torch.Tensor:
        import torch

        with torch.inference_mode():
            parts = [function(part.to(self.device)) for part in items.split(batch)]
        return torch.cat(parts).clone()  # an ordinary tensor: training may ask for gradients behind it


def find_first_stage(model: ModelFolder) -> FirstStageFolder | None:
    """The autoencoder beside the denoiser, None for a model of pixels.

    Raises DtkError for an autoencoder of a class that is not known, or one whose latents the denoiser does not take.
    """
    places = [model.root / name for name in PLACES if model.component and (model.root / name / "config.json").is_file()]
    if not places:
        return None
    folder = FirstStageFolder(places[0])
    if folder.class_name not in CLASSES:
        raise DtkError(
            f"dtk does not know the autoencoder class {folder.class_name}.",
            found=folder.path / "config.json",
            expected=f"one of {', '.join(CLASSES)}",
        )
    if folder.latent_channels != model.config.get("in_channels"):
        raise DtkError(
            f"The denoiser of {model.root} does not take its autoencoder's latents alone.",
            found=f"{model.config.get('in_channels')} input channels",
            expected=f"{folder.latent_channels}, as the latents of {folder.path.name} have",
        )
    return folder


def image_shape(model: ModelFolder) -> Shape:
    """(C, H, W) of the images the model makes: what its denoiser takes, or what its first stage makes of that."""
    channels, height, width = input_specs(model.class_name, model.config)["sample"].shape
    first_stage = find_first_stage(model)
    return first_stage.image_shape((channels, height, width)) if first_stage else (channels, height, width)


def open_first_stage(model: ModelFolder, device: str = "cpu") -> FirstStage | None:
    """The autoencoder of a latent model with its weights, None for a model of pixels."""
    folder = find_first_stage(model)
    return FirstStage(folder, device) if folder else None


def _mean_and_scale(config: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """The affine map of latents: ``latents_mean`` and ``latents_std`` a channel where they are given, as in SDXL's."""
    import torch

    mean, std = config.get("latents_mean"), config.get("latents_std")
    if (mean is None) != (std is None):
        raise DtkError(
            "The autoencoder's config has latents_mean or latents_std alone.", expected="both of them, or neither"
        )
    if mean is not None:
        return torch.tensor(mean).view(1, -1, 1, 1), config["scaling_factor"] / torch.tensor(std).view(1, -1, 1, 1)
    return torch.tensor(config.get("shift_factor") or 0.0), torch.tensor(config["scaling_factor"])
