"""A result opens where dtk is not installed, and computes the same there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.tiny import randomise
from tests.without_dtk import TOLERANCE, difference_without_dtk, store_probes
from toolkit.models.folder import find_model, load_denoiser, save_model


@pytest.mark.slow
def test_a_saved_model_opens_in_an_environment_without_dtk(tmp_path: Path) -> None:
    folder = find_model(None)
    denoiser = load_denoiser(folder)
    save_model(folder, denoiser, tmp_path / "model")
    shape = (denoiser.config.in_channels, denoiser.config.sample_size, denoiser.config.sample_size)
    store_probes(denoiser, shape, tmp_path / "probes.safetensors")
    assert difference_without_dtk(tmp_path / "model", tmp_path / "probes.safetensors") < TOLERANCE


@pytest.mark.slow
def test_the_comparison_sees_other_weights(tmp_path: Path) -> None:
    folder = find_model(None)
    denoiser = load_denoiser(folder)
    save_model(folder, denoiser, tmp_path / "model")
    store_probes(randomise(denoiser), (1, 16, 16), tmp_path / "probes.safetensors")
    assert difference_without_dtk(tmp_path / "model", tmp_path / "probes.safetensors") > 100 * TOLERANCE


def test_probes_are_not_trivial(tmp_path: Path) -> None:
    store_probes(load_denoiser(find_model(None)), (1, 16, 16), tmp_path / "probes.safetensors")
    from safetensors.numpy import load_file

    prediction = load_file(tmp_path / "probes.safetensors")["prediction"]
    assert np.ptp(prediction, axis=(1, 2, 3)).min() > 0.1
