"""A result opens where dtk is not installed, and computes the same there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.tiny import randomise
from tests.without_dtk import TOLERANCE, differences_without_dtk, store_probes
from toolkit.models.build import load_denoiser
from toolkit.models.folder import find_model
from toolkit.models.save import save_model


@pytest.mark.slow
def test_a_saved_model_computes_the_same_without_dtk_and_other_weights_do_not(tmp_path: Path) -> None:
    folder = find_model(None)
    denoiser = load_denoiser(folder)
    save_model(folder, denoiser, tmp_path / "model")
    shape = (denoiser.config.in_channels, denoiser.config.sample_size, denoiser.config.sample_size)
    own, others = (tmp_path / f"{name}.safetensors" for name in ("own", "others"))
    store_probes(denoiser, shape, own)
    store_probes(randomise(denoiser), shape, others)
    same, different = differences_without_dtk(tmp_path / "model", own, others)
    assert same < TOLERANCE < 0.01 * different


def test_probes_are_not_trivial(tmp_path: Path) -> None:
    store_probes(load_denoiser(find_model(None)), (1, 16, 16), tmp_path / "probes.safetensors")
    from safetensors.numpy import load_file

    prediction = load_file(tmp_path / "probes.safetensors")["prediction"]
    assert np.ptp(prediction, axis=(1, 2, 3)).min() > 0.1
