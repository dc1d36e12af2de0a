"""optimum-onnx 0.1.0, in an environment of its own, opens the layout and makes dtk's own images."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from exporters.optimum import write_layout
from exporters.settings import ExportSettings
from tests.architecture.source import ROOT
from tests.handoff.latent_run import expected
from tests.latent import tiny_ldm, tiny_stable_diffusion
from toolkit.core.errors import UsageError
from toolkit.core.noise import sample_noise
from toolkit.core.progress import silent

PYTHON = ROOT / ".venv-optimum" / "bin" / "python"
SEED, STEPS, PROMPT, GUIDANCE = 3, 4, "a cat", 3.5
PROGRAM = """
import sys, numpy, torch
from importlib.metadata import version
import optimum.onnxruntime as ort
assert version("optimum-onnx") == "0.1.0"
folder, latents, out = sys.argv[1:4]
for name in ("ORTStableDiffusionPipeline", "ORTDiffusionPipeline"):
    pipeline = getattr(ort, name).from_pretrained(folder, export=False)
    assert type(pipeline).__name__ == "ORTStableDiffusionPipeline", type(pipeline)
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(sys.argv[4], latents=torch.from_numpy(numpy.load(latents)), guidance_scale=float(sys.argv[5]),
                    num_inference_steps=int(sys.argv[6]), height=16, width=16, output_type="np").images
    numpy.save(f"{out}/{name}.npy", made)
    wide = pipeline("b", num_inference_steps=2, height=16, width=32, num_images_per_prompt=2, output_type="np").images
    assert wide.shape == (2, 16, 32, 3), wide.shape
    moments = pipeline.vae.encode(torch.zeros(1, 3, 16, 16)).latent_dist.mode()
    assert moments.shape == (1, 4, 8, 8), moments.shape
"""


@pytest.mark.slow
def test_both_pipelines_make_dtks_images(tmp_path: Path) -> None:
    if not PYTHON.is_file():
        pytest.skip(f"no {PYTHON.parent.parent.name}: `make test-all` makes it")
    model = tiny_stable_diffusion(tmp_path / "model")
    (tmp_path / "layout").mkdir()
    deviations = write_layout(model, ExportSettings(), tmp_path / "layout", silent)
    assert set(deviations) == {"unet", "text_encoder", "vae_decoder", "vae_encoder"}
    assert all(0 <= deviation < 1e-4 for deviation in deviations.values())
    np.save(tmp_path / "latents.npy", sample_noise([SEED], 0, (4, 8, 8)))
    arguments = [tmp_path / "layout", tmp_path / "latents.npy", tmp_path, PROMPT, GUIDANCE, STEPS]
    done = subprocess.run([PYTHON, "-I", "-c", PROGRAM, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    own = expected(model, SEED, STEPS, PROMPT, GUIDANCE).transpose(1, 2, 0)
    for name in ("ORTStableDiffusionPipeline", "ORTDiffusionPipeline"):
        (image,) = np.load(tmp_path / f"{name}.npy")
        assert np.abs(image - own).max() < 1 / 255, name


def test_a_model_without_such_a_pipeline_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="optimum has no pipeline for this model"):
        write_layout(tiny_ldm(tmp_path / "model"), ExportSettings(layout="optimum"), tmp_path / "out", silent)
