"""Parity: what is compared, and that a difference anywhere is found and named."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from exporters.parity import (
    PSNR_FLOORS_DB,
    TOLERANCES,
    compare,
    compare_images,
    parity_timesteps,
    psnr_db,
    relative_errors,
)
from exporters.reference import GUIDANCE, Reference
from exporters.resume import KeptCalls
from exporters.settings import ExportSettings
from tests.latent import FOLDERS
from toolkit.adapters.base import InputSpec
from toolkit.core.errors import DtkError
from toolkit.diffusion.step_loop import SCALE

SPECS = {"sample": InputSpec((2, 4, 4)), "timestep": InputSpec((), "int64", 1000)}
TIMESTEPS = [0, 1, 250, 500, 750, 999]


def truth(sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    return sample.sin() + timestep.reshape(-1, 1, 1, 1) / 1000


class Faulty:
    """Is wrong by ``error`` of the largest value, at one timestep in one batch size."""

    def __init__(self, timestep: int, batch: int, error: float) -> None:
        self.timestep, self.batch, self.error = timestep, batch, error

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        found = truth(sample, timestep)
        for item in range(len(sample)):
            if len(sample) == self.batch and timestep[item] == self.timestep:
                found[item, 0, 0, 0] += self.error * found[item].abs().max()
        return found


def run(candidate: Any, tolerance: float = 1e-3) -> dict[str, Any]:
    return compare(truth, candidate, SPECS, batches=[1, 2, 64], tolerance=tolerance, name="The candidate")


def test_the_ends_and_the_quarters_are_compared() -> None:
    assert parity_timesteps(1000) == TIMESTEPS
    assert parity_timesteps(4) == [0, 1, 2, 3]
    assert parity_timesteps(1) == [0]


def test_equal_denoisers_pass_with_no_error() -> None:
    found = run(truth)
    assert found["worst"]["relative_error"] == 0
    assert set(found["by_timestep"]) == set(map(str, TIMESTEPS))
    assert set(found["by_batch"]) == {"1", "2", "64"}


@pytest.mark.parametrize("timestep", TIMESTEPS)
@pytest.mark.parametrize("batch", [1, 2, 64])
def test_a_fault_at_one_timestep_of_one_batch_is_found_and_named(timestep: int, batch: int) -> None:
    words = (
        f"The candidate does not compute[\\s\\S]*error 0.01 at timestep {timestep}, batch {batch}\n[\\s\\S]*0.001 of"
    )
    with pytest.raises(DtkError, match=words):
        run(Faulty(timestep, batch, 1e-2))
    assert run(Faulty(timestep, batch, 5e-4))["worst"]["timestep"] == timestep


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_never_within_tolerance(value: float) -> None:
    with pytest.raises(DtkError, match="relative error inf at timestep 500, batch 2"):
        run(Faulty(500, 2, value), tolerance=1e9)


def test_the_error_is_of_the_largest_value_of_the_item() -> None:
    expected = torch.tensor([[1.0, -4.0], [0.1, 0.2]])
    got = expected + torch.tensor([[0.0, 1.0], [0.1, 0.0]])
    torch.testing.assert_close(relative_errors(expected, got), torch.tensor([0.25, 0.5]).double())


def test_psnr_agrees_with_scikit_image() -> None:
    from skimage.metrics import peak_signal_noise_ratio

    expected = torch.linspace(-1, 1, 48).reshape(1, 3, 4, 4)
    got = expected + 0.01 * torch.cos(torch.arange(48.0)).reshape(1, 3, 4, 4)
    theirs = peak_signal_noise_ratio(expected[0].numpy(), got[0].numpy(), data_range=2.0)
    assert psnr_db(expected, got).item() == pytest.approx(theirs, abs=1e-3)


COARSER = {"fp32": torch.float16, "tf32": torch.float8_e4m3fn, "fp16": torch.float8_e4m3fn, "bf16": torch.float8_e5m2}


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_a_prediction_in_a_coarser_type_is_out_of_tolerance(dtype: str) -> None:
    predictions = torch.linspace(-1.12, 1.12, 300)[None]
    assert relative_errors(predictions, predictions.to(COARSER[dtype]).float()).item() > TOLERANCES[dtype]


@pytest.mark.parametrize(("dtype", "bits"), [("fp32", 8), ("tf32", 4), ("fp16", 4), ("bf16", 2)])
def test_each_floor_lies_between_so_many_bits_a_pixel_and_one_more(dtype: str, bits: int) -> None:
    images = torch.linspace(-1, 1, 30_000).reshape(1, 3, 100, 100)

    def rounded(levels: int) -> torch.Tensor:
        return ((images + 1) / 2 * (levels - 1)).round() / (levels - 1) * 2 - 1

    floor = PSNR_FLOORS_DB[dtype]
    compare_images(images, rounded(2 ** (bits + 1)), floor_db=floor, name="It")
    with pytest.raises(DtkError, match="samples other images"):
        compare_images(images, rounded(2**bits), floor_db=floor, name="It")


def test_images_below_the_floor_are_refused() -> None:
    images = torch.zeros(3, 1, 4, 4)
    other = images.clone()
    other[1] += 0.2  # PSNR 20 dB
    assert compare_images(images, other, floor_db=19.9, name="It")["least_psnr_db"] == pytest.approx(20.0, abs=1e-4)
    with pytest.raises(DtkError, match=r"It samples other images[\s\S]*PSNR 20.0 dB in image 1[\s\S]*at least 30 dB"):
        compare_images(images, other, floor_db=30, name="It")


def test_equal_images_have_no_psnr_and_images_with_nan_pass_no_floor() -> None:
    images = torch.zeros(2, 1, 4, 4)
    assert compare_images(images, images, floor_db=60, name="It")["psnr_db"] == [None, None]
    with pytest.raises(DtkError, match="samples other images"):
        compare_images(images, torch.full_like(images, math.nan), floor_db=-100, name="It")


def test_a_single_guided_image_shows_its_condition(tmp_path: Path) -> None:
    """At a scale of 0 a step graph that drops the prompt would pass."""
    model = FOLDERS["class"](tmp_path)
    reference = Reference(model, ExportSettings(parity_gmacs=0.001), "cpu", KeptCalls(None))
    assert len(reference.seeds) == 1 and reference.step_conditioning[SCALE].tolist() == [GUIDANCE]
