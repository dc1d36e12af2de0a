"""The autoencoder gives the latents that diffusers' own pipelines decode."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers.image_processor import VaeImageProcessor

from tests.latent import LEVELS, tiny_class_ldm, tiny_kl, tiny_stable_diffusion, tiny_vq
from tests.tiny import tiny_folder
from toolkit.core.errors import DtkError
from toolkit.core.noise import normal
from toolkit.evaluation.image_maker import to_pixels
from toolkit.models.autoencoder import Autoencoder, AutoencoderFolder, find_autoencoder, open_autoencoder
from toolkit.models.folder import find_model


def images(count: int = 5) -> torch.Tensor:
    return torch.from_numpy(normal("images", 0, shape=(count, 3, 16, 16))).clamp(-1, 1)


@pytest.mark.parametrize("make", [tiny_vq, tiny_kl])
def test_latents_are_diffusers_own_scaled(tmp_path: Path, make) -> None:
    module = make()
    module.save_pretrained(tmp_path)
    stage = Autoencoder.load(AutoencoderFolder(tmp_path))
    with torch.no_grad():
        encoded = module.encode(images())
        expected = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mean
        latents = stage.encode(images(), batch=2)
        torch.testing.assert_close(latents, expected * module.config.scaling_factor)
        decoded = module.decode(expected).sample
    torch.testing.assert_close(stage.decode(latents, batch=2), decoded, rtol=1e-4, atol=1e-4)
    assert stage.image_shape(tuple(latents.shape[1:])) == (3, 16, 16)


@pytest.mark.parametrize("fields", [{"shift_factor": 0.3}, {"latents_mean": [1, 2, 3, 4], "latents_std": [2, 3, 4, 5]}])
def test_shift_and_statistics_of_the_config_are_undone(tmp_path: Path, fields: dict) -> None:
    tiny_kl().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | fields))
    stage, plain = Autoencoder.load(AutoencoderFolder(tmp_path)), tiny_kl()
    with torch.no_grad():
        raw = plain.encode(images()).latent_dist.mean
    mean, std = (
        torch.tensor(fields.get(name, default)).view(1, -1, 1, 1)
        for name, default in (("latents_mean", [fields.get("shift_factor", 0.0)]), ("latents_std", [1.0]))
    )
    torch.testing.assert_close(stage.encode(images()), (raw - mean) / std * 0.5)
    torch.testing.assert_close(
        stage.decode(stage.encode(images())), plain.decode(raw).sample.detach(), rtol=1e-4, atol=1e-4
    )


def test_pixels_of_a_decoded_image_are_the_pipelines(tmp_path: Path) -> None:
    stage = open_autoencoder(tiny_stable_diffusion(tmp_path))
    assert stage is not None
    decoded = stage.decode(torch.from_numpy(normal("latents", 0, shape=(2, 4, 8, 8))))
    pixels = VaeImageProcessor().postprocess(decoded, output_type="np")
    assert (to_pixels(decoded, None, [0, 1]) == (pixels * 255).round().astype("uint8")).all()


def test_a_model_of_pixels_has_none(tmp_path: Path) -> None:
    assert find_autoencoder(tiny_folder(tmp_path / "pipeline")) is None
    latent = tiny_class_ldm(tmp_path / "latent")
    assert find_autoencoder(find_model(latent.denoiser)) is None, "a bare component stands alone"


def test_an_unknown_autoencoder_is_refused(tmp_path: Path) -> None:
    folder = tiny_class_ldm(tmp_path)
    (tmp_path / "vqvae" / "config.json").write_text('{"_class_name": "AutoencoderDC"}')
    with pytest.raises(DtkError, match=r"autoencoder class AutoencoderDC[\s\S]*AutoencoderKL, VQModel"):
        find_autoencoder(folder)


def test_a_denoiser_of_other_channels_is_refused(tmp_path: Path) -> None:
    folder = tiny_class_ldm(tmp_path)
    from diffusers import VQModel

    VQModel(latent_channels=5, **LEVELS).save_pretrained(tmp_path / "vqvae")
    with pytest.raises(DtkError, match=r"does not take its autoencoder's latents[\s\S]*3 input channels[\s\S]*5, as"):
        find_autoencoder(folder)
