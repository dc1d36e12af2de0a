"""How near the images of a decoder come to the dense one's, and to those that were encoded."""

from __future__ import annotations

import torch
from torch import nn

from toolkit.models.autoencoder import Autoencoder, Shape
from toolkit.models.decoder import decoder_of
from toolkit.models.latents import Latents

IMAGES, BATCH = 64, 8
LEAST = 1e-12  # a mean squared error of less is none: 126 dB


class DecoderJudge:
    """Mean PSNR in dB, on pixels in [-1, 1], of what a decoder makes of held-out images' latents.

    ``to_dense``: to what the dense decoder makes of them; ``to_images``: to the images themselves.
    """

    def __init__(self, autoencoder: Autoencoder, latent: Shape, held_out: Latents) -> None:
        indices = range(min(IMAGES, len(held_out)))
        latents = torch.from_numpy(held_out.read(indices))
        self._images = torch.from_numpy(held_out.images.read(indices))
        self._given = [autoencoder.before_decoder(part.to(autoencoder.device)) for part in latents.split(BATCH)]
        self._dense = self._decoded(decoder_of(autoencoder, latent))

    def __call__(self, decoder: nn.Module | None) -> dict[str, float]:
        """The figures of a decoder; None is the dense one."""
        if decoder is None:
            return {"to_images": _psnr_db(self._dense, self._images)}
        made = self._decoded(decoder)
        return {"to_dense": _psnr_db(made, self._dense), "to_images": _psnr_db(made, self._images)}

    def _decoded(self, decoder: nn.Module) -> torch.Tensor:
        with torch.inference_mode():
            return torch.cat([decoder(given)[0].clamp(-1, 1).cpu() for given in self._given])


def _psnr_db(made: torch.Tensor, wanted: torch.Tensor) -> float:
    squared = (made - wanted).double().square().flatten(1).mean(1).clamp_min(LEAST)
    return float((10 * torch.log10(4 / squared)).mean())
