"""SSIM and PSNR against the formula and scikit-image, down to images smaller than the published window."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from toolkit.core.errors import MissingToolError
from toolkit.evaluation import similarity


def pairs(count=5, size=16, channels=1, spread=20):
    random = np.random.default_rng(0)
    smooth = (
        random.integers(0, 256, (count, size // 4 + 1, size // 4 + 1, channels)).repeat(4, axis=1).repeat(4, axis=2)
    )
    first = smooth[:, :size, :size].astype(np.uint8)
    second = (first + random.normal(0, spread, first.shape)).clip(0, 255).astype(np.uint8)
    return first, second


def ssim_by_scipy(first, second):
    """Wang et al. 2004, equation 13, with scipy's Gaussian filter (cut at 3.5 sigma, mirrored at the border)."""
    sigma = 1.5 * similarity.ssim_window(*first.shape[:2]) / 11
    one, other = (np.moveaxis(image, 2, 0).astype(np.float64) / 255 for image in (first, second))

    def blur(planes):
        return np.stack([gaussian_filter(plane, sigma, truncate=3.5, mode="mirror") for plane in planes])

    mean1, mean2 = blur(one), blur(other)
    variance1, variance2 = blur(one**2) - mean1**2, blur(other**2) - mean2**2
    covariance = blur(one * other) - mean1 * mean2
    c1, c2 = 0.01**2, 0.03**2
    above = (2 * mean1 * mean2 + c1) * (2 * covariance + c2)
    return (above / ((mean1**2 + mean2**2 + c1) * (variance1 + variance2 + c2))).mean()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [3, 8, 16, 64])
def test_ssim_is_the_formula(size, channels):
    first, second = pairs(size=size, channels=channels)
    expected = [ssim_by_scipy(one, other) for one, other in zip(first, second, strict=True)]
    np.testing.assert_allclose(similarity.ssim(first, second), expected, rtol=1e-6)


def test_ssim_is_scikit_images_but_for_the_border():
    first, second = pairs(size=128)
    for one, other, ours in zip(first, second, similarity.ssim(first, second), strict=True):
        theirs = structural_similarity(
            one, other, channel_axis=2, data_range=255, gaussian_weights=True, use_sample_covariance=False
        )
        assert ours == pytest.approx(theirs, abs=0.01)


@pytest.mark.parametrize("size", [3, 5, 8, 11, 16, 32])
def test_ssim_of_any_size(size):
    first, second = pairs(size=size)
    near, far = pairs(size=size, spread=5), pairs(size=size, spread=80)
    np.testing.assert_allclose(similarity.ssim(first, first), 1, atol=1e-12)
    assert similarity.ssim(*near).mean() > similarity.ssim(first, second).mean() > similarity.ssim(*far).mean()
    assert (similarity.ssim(*far) < 1).all()


@pytest.mark.parametrize(("size", "window"), [(64, 11), (16, 11), (11, 11), (10, 9), (8, 7), (3, 3)])
def test_window_fits(size, window):
    assert similarity.ssim_window(size, 99) == window


def test_one_value_a_pair_whatever_the_batch(monkeypatch):
    first, second = pairs(count=7)
    whole = similarity.ssim(first, second)
    monkeypatch.setattr(similarity, "BATCH", 2)
    np.testing.assert_allclose(similarity.ssim(first, second), whole, rtol=1e-12)
    assert whole.shape == (7,)
    assert similarity.ssim(first[:1], second[:1]).shape == (1,)


def test_psnr_is_scikit_images():
    first, second = pairs(channels=3)
    assert similarity.psnr_db(first, second) == pytest.approx(peak_signal_noise_ratio(first, second, data_range=255))
    assert similarity.psnr_db(first, first) is None


def test_without_torchmetrics(monkeypatch):
    monkeypatch.setattr(similarity, "find_spec", lambda name: None)
    with pytest.raises(MissingToolError, match=r"torchmetrics") as error:
        similarity.check_installed()
    assert 'pip install ".[metrics]"' in str(error.value)
