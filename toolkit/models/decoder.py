"""The decoder of an autoencoder as a network of its own, and the stock autoencoder that a narrower one goes back into.

``AutoencoderKL`` has one ``block_out_channels`` for both its halves. ``AutoencoderKLFlux2`` of diffusers is the same
network with ``decoder_block_out_channels`` as well, so that a narrow decoder next to the dense encoder is one of its
configurations. What pipelines read of the config and the class does not take (``scaling_factor``, ``force_upcast``) is
carried along in config.json, where diffusers keeps it. No class says that of ``VQModel``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKLFlux2, ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.vae import Decoder
from torch import nn

from toolkit.core.errors import DtkError
from toolkit.models.autoencoder import Autoencoder, AutoencoderFolder
from toolkit.models.precision import DTYPES, convert

SPLIT = "AutoencoderKLFlux2"
"""The class whose halves have widths of their own."""
PREFIX = "decoder."
QUANTISER = ("quantize*",)  # the nearest code is another one in half precision
SHARED = ("out_channels", "up_block_types", "layers_per_block", "norm_num_groups", "act_fn", "mid_block_add_attention")
"""The fields of an autoencoder's config that its decoder takes as they are."""


class ImageDecoder(ModelMixin, Decoder, ConfigMixin):
    """diffusers' own decoder behind ``post_quant_conv``, with a configuration that pruning can narrow.

    ``sample_size``: height and width of the latents it is counted on.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        sample_size: tuple[int, int],
        in_channels: int,
        out_channels: int,
        block_out_channels: tuple[int, ...],
        up_block_types: tuple[str, ...],
        layers_per_block: int,
        norm_num_groups: int,
        act_fn: str,
        mid_block_add_attention: bool,
    ) -> None:
        Decoder.__init__(
            self,
            in_channels,
            out_channels,
            up_block_types,
            block_out_channels,
            layers_per_block,
            norm_num_groups,
            act_fn,
            mid_block_add_attention=mid_block_add_attention,
        )
        self._gradient_checkpointing_func = None

    def forward(self, sample: torch.Tensor, return_dict: bool = False) -> tuple[torch.Tensor]:
        """Images (B, C, H, W) of what ``post_quant_conv`` gives (B, c, h, w)."""
        return (Decoder.forward(self, sample),)


class BorderedDecoder(nn.Module):
    """Latents to images in ``dtype`` (fp32, fp16 or bf16); the quantiser of a VQModel is kept in float32."""

    def __init__(self, autoencoder: Autoencoder, dtype: str) -> None:
        super().__init__()
        self.dtype, self.module, self.latent_map = DTYPES[dtype], autoencoder.module, autoencoder.latent_map
        convert(self.module, self.dtype, QUANTISER if dtype != "fp32" else ())

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Images (B, C, H, W) float32 of ``latents`` (B, c, h, w) float32."""
        values = self.latent_map.to_values(latents)
        if not hasattr(self.module, "quantize"):
            values = values.to(self.dtype)
        images: torch.Tensor = self.module.decode(values, return_dict=False)[0]
        return images.to(latents.dtype)


def decoder_config(folder: AutoencoderFolder, latent: tuple[int, int, int]) -> dict[str, Any]:
    """The configuration of an autoencoder's decoder for latents of the shape ``latent``; reads no weights.

    Raises DtkError for a class that no stock class can hold a narrower decoder of.
    """
    if folder.class_name not in ("AutoencoderKL", SPLIT):
        raise DtkError(
            f"The decoder of a {folder.class_name} cannot be narrower than its encoder.",
            found=f"{folder.path.name}: no class of diffusers has this one's quantiser and a width for each half",
            expected="an AutoencoderKL",
            do="leave the decoder as it is: without --decoder",
        )
    return _config_of(folder.full_config, latent)


def _config_of(config: Mapping[str, Any], latent: tuple[int, ...]) -> dict[str, Any]:
    widths = config.get("decoder_block_out_channels") or config["block_out_channels"]
    shape = {"sample_size": list(latent[1:]), "in_channels": config["latent_channels"]}
    shared = {name: list(v) if isinstance(v := config[name], tuple) else v for name in SHARED}
    return {**shape, **shared, "block_out_channels": list(widths)}


def decoder_of(autoencoder: Autoencoder, latent: tuple[int, ...]) -> ImageDecoder:
    """A copy of an autoencoder's decoder, on its device, in eval mode, with gradients."""
    decoder = ImageDecoder.from_config(_config_of(autoencoder.module.config, latent))
    decoder.load_state_dict(autoencoder.module.decoder.state_dict())
    made: ImageDecoder = decoder.to(autoencoder.device).eval()
    return made


def with_decoder(autoencoder: Any, decoder: Any) -> Any:
    """The stock autoencoder that encodes as ``autoencoder``, a diffusers module, and decodes with ``decoder``."""
    left_out = "_use_default_values"  # diffusers would drop what these name, the defaults of the other class
    config = {name: value for name, value in autoencoder.config.items() if value is not None and name != left_out}
    widths = {"decoder_block_out_channels": tuple(decoder.config.block_out_channels)}
    stock = AutoencoderKLFlux2.from_config({**config, **widths, "_class_name": type(autoencoder).__name__})
    around = {n: t for n, t in autoencoder.state_dict().items() if not n.startswith(PREFIX)}
    inside = {f"{PREFIX}{name}": tensor for name, tensor in decoder.state_dict().items()}
    stock.load_state_dict({**stock.state_dict(), **around, **inside})
    return stock.eval()
