"""A decoder is a network of its own, and goes back into a stock autoencoder that says its widths."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
import torch

from tests.latent import tiny_kl, tiny_vq
from tests.tiny import tiny_decoder
from toolkit.core.errors import DtkError
from toolkit.core.noise import normal
from toolkit.models.autoencoder import Autoencoder, AutoencoderFolder
from toolkit.models.decoder import ImageDecoder, decoder_config, decoder_of, with_decoder

LATENT = (4, 8, 8)


def latents() -> torch.Tensor:
    return torch.from_numpy(normal("latents", 0, shape=(2, *LATENT)))


@pytest.mark.parametrize("fields", [{}, {"use_post_quant_conv": False, "use_quant_conv": False}])
def test_it_computes_what_the_autoencoder_decodes(fields: dict[str, object]) -> None:
    whole = Autoencoder(type(plain := tiny_kl()).from_config({**plain.config, **fields}).eval())
    with torch.no_grad():
        (made,) = decoder_of(whole, LATENT)(whole.before_decoder(latents()))
    torch.testing.assert_close(made, whole.decode(latents()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("widths", [(8, 8), (4, 4)])
def test_what_it_goes_back_into_is_stock_and_encodes_as_before(tmp_path: Path, widths: tuple[int, int]) -> None:
    """``widths`` equal to the dense ones: the function is the same, whatever the class is called."""
    dense = tiny_kl()
    decoder = decoder_of(Autoencoder(dense), LATENT)
    narrow = decoder if widths == (8, 8) else tiny_decoder(**{**decoder.config, "block_out_channels": widths})
    with_decoder(dense, narrow).save_pretrained(tmp_path)
    folder = AutoencoderFolder(tmp_path)
    stock = getattr(diffusers, folder.class_name).from_pretrained(tmp_path)
    assert stock.config.scaling_factor == dense.config.scaling_factor
    assert stock.config.force_upcast == dense.config.force_upcast, "what pipelines of SDXL read"
    images = torch.from_numpy(normal("images", 0, shape=(2, 3, 16, 16)))
    before, after = Autoencoder(dense), Autoencoder.load(folder)
    with torch.no_grad():
        torch.testing.assert_close(after.encode(images), before.encode(images), rtol=0, atol=1e-5)
        made = narrow(before.before_decoder(latents()))[0]
        torch.testing.assert_close(after.decode(latents()), made, rtol=0, atol=1e-5)
    if narrow is decoder:
        torch.testing.assert_close(after.decode(latents()), before.decode(latents()), rtol=0, atol=1e-5)
    assert decoder_of(after, LATENT).config.block_out_channels == list(widths)
    assert ImageDecoder.from_config(decoder_config(folder, LATENT)).config.block_out_channels == list(widths)


def test_a_quantised_one_is_refused(tmp_path: Path) -> None:
    tiny_vq().save_pretrained(tmp_path / "vqvae")
    with pytest.raises(DtkError, match=r"VQModel cannot be narrower[\s\S]*an AutoencoderKL[\s\S]*--decoder"):
        decoder_config(AutoencoderFolder(tmp_path / "vqvae"), (3, 8, 8))


def test_latents_of_no_known_scale_are_refused(tmp_path: Path) -> None:
    stock = with_decoder(tiny_kl(), tiny_decoder(block_out_channels=(4, 4)))
    stock.register_to_config(scaling_factor=None)
    with pytest.raises(DtkError, match=r"how latents are scaled[\s\S]*scaling_factor"):
        Autoencoder(stock)
