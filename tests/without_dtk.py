"""An environment without dtk computes the same from a stock folder."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import torch
from safetensors.numpy import save_file

from toolkit.core.noise import normal

TOLERANCE = 1e-5


# `python -I` reads neither the current folder nor PYTHONPATH nor the user's packages; -S spares it the links of an
# editable install. What is left is the standard library and the plain packages of this environment.
STRANGER = """
import importlib.util, sys
sys.path.append(sys.argv[1])
for name in ("dtk", "toolkit", "exporters", "profiles"):
    assert importlib.util.find_spec(name) is None, f"{name} can be imported: this environment knows dtk"
import torch
from diffusers import DDPMPipeline
from safetensors.torch import load_file
pipeline = DDPMPipeline.from_pretrained(sys.argv[2])
for path in sys.argv[3:]:
    probes = load_file(path)
    with torch.no_grad():
        found = pipeline.unet(probes["sample"], probes["timestep"]).sample
    print(float((found - probes["prediction"]).abs().max()))
"""


def store_probes(denoiser: torch.nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """Inputs at three timesteps with dtk's own outputs."""
    sample = torch.from_numpy(normal("probe", 0, shape=(3, *shape)))
    timestep = torch.tensor([0, 499, 999])
    with torch.no_grad():
        prediction = denoiser(sample, timestep).sample
    save_file({"sample": sample.numpy(), "timestep": timestep.numpy(), "prediction": prediction.numpy()}, path)


def difference_without_dtk(model: Path, probes: Path) -> float:
    """The largest difference an environment without dtk finds between the stored outputs and its own."""
    (difference,) = differences_without_dtk(model, probes)
    return difference


def differences_without_dtk(model: Path, *probes: Path) -> list[float]:
    """The same for each file of probes, in one process."""
    packages = sysconfig.get_path("purelib")
    command = [sys.executable, "-I", "-S", "-c", STRANGER, packages, str(model), *map(str, probes)]
    done = subprocess.run(command, cwd=model.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [float(line) for line in done.stdout.split()[-len(probes) :]]
