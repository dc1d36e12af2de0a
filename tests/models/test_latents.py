"""Stored latents equal encoded ones, survive interruption, and never serve another autoencoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import VQModel

from tests.latent import tiny_vq
from toolkit.core.errors import DtkError
from toolkit.core.noise import generator
from toolkit.data.images import Images
from toolkit.models import latents as module
from toolkit.models.autoencoder import Autoencoder, AutoencoderFolder
from toolkit.models.latents import Latents


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARD", 4)


@pytest.fixture
def stage(tmp_path: Path) -> AutoencoderFolder:
    tiny_vq().save_pretrained(tmp_path / "vqvae")
    return AutoencoderFolder(tmp_path / "vqvae")


def images(count: int = 10) -> Images:
    pixels = generator("images", 0).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
    return Images("test", (3, 16, 16), "0" * 64, tuple(range(count)), lambda number: pixels[number])


def encoded(stage: AutoencoderFolder, of: Images, mirrored: bool = False) -> np.ndarray:
    pixels = of.read(range(len(of)))
    return Autoencoder.load(stage).encode(torch.from_numpy(pixels[..., ::-1].copy() if mirrored else pixels)).numpy()


def test_stored_latents_equal_encoded_ones(stage: AutoencoderFolder, tmp_path: Path) -> None:
    latents = Latents(images(), stage, tmp_path)
    order, flips = [9, 0, 4, 4], [False, True, False, True]
    expected = np.stack([encoded(stage, images(), flip)[index] for index, flip in zip(order, flips, strict=True)])
    np.testing.assert_allclose(latents.read(order, flips), expected, rtol=1e-4, atol=1e-5)
    assert not list(tmp_path.rglob("*.npy")), "reading a few stores nothing"
    latents.prepare(mirrored=True)
    assert len(list(tmp_path.rglob("*.npy"))) == 6
    np.testing.assert_allclose(latents.read(order, flips), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(latents.read(range(10)), encoded(stage, images()), rtol=1e-4, atol=1e-5)


def test_nothing_is_encoded_twice(stage: AutoencoderFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Latents(images(), stage, tmp_path).prepare()
    first = Latents(images(), stage, tmp_path).read(range(10))
    monkeypatch.setattr(Autoencoder, "__init__", None)  # would be called if anything were missing
    again = Latents(images(), stage, tmp_path)
    again.prepare()
    np.testing.assert_array_equal(again.read(range(10)), first)


def test_an_interrupted_encoding_goes_on(stage: AutoencoderFolder, tmp_path: Path) -> None:
    def stop_at_2(work: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Latents(images(), stage, tmp_path / "a").prepare(stop_at_2)
    kept = sorted((tmp_path / "a").rglob("*.npy"))
    times = [path.stat().st_mtime_ns for path in kept]
    Latents(images(), stage, tmp_path / "a").prepare()
    assert len(kept) == 2 and [path.stat().st_mtime_ns for path in kept] == times
    whole = Latents(images(), stage, tmp_path / "b")
    whole.prepare()
    np.testing.assert_array_equal(Latents(images(), stage, tmp_path / "a").read(range(10)), whole.read(range(10)))


def test_a_damaged_shard_is_made_again(stage: AutoencoderFolder, tmp_path: Path) -> None:
    latents = Latents(images(), stage, tmp_path)
    latents.prepare()
    first, shard = latents.read(range(10)), sorted(tmp_path.rglob("*.npy"))[1]
    shard.unlink()
    shard.write_bytes(b"half a shard")
    again = Latents(images(), stage, tmp_path)
    again.prepare()
    np.testing.assert_array_equal(again.read(range(10)), first)


def test_another_autoencoder_and_other_images_have_their_own_latents(stage: AutoencoderFolder, tmp_path: Path) -> None:
    tiny_vq(1).save_pretrained(tmp_path / "other")
    other = AutoencoderFolder(tmp_path / "other")
    places = [
        Latents(images(), stage, tmp_path),
        Latents(images(), other, tmp_path),
        Latents(images().subset(range(9)), stage, tmp_path),
    ]
    assert len({place.folder for place in places}) == len({place.fingerprint for place in places}) == 3


def test_latents_that_are_not_finite_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_vq().save_pretrained(tmp_path / "vqvae")
    latents = Latents(images(), AutoencoderFolder(tmp_path / "vqvae"), tmp_path)
    original = VQModel.encode

    def broken(self: VQModel, x: torch.Tensor, **options: object) -> object:
        found = original(self, x, **options)
        found.latents[1] = torch.nan
        return found

    monkeypatch.setattr(VQModel, "encode", broken)
    with pytest.raises(DtkError, match=r"not finite[\s\S]*1 of 4 images of test, the first being number 5"):
        latents.read([4, 5, 6, 7])
    with pytest.raises(DtkError, match="not finite"):
        latents.prepare()
    assert not list(tmp_path.rglob("*.npy"))
