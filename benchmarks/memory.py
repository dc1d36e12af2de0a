"""How much memory does pruning a large model take? ``python benchmarks/memory.py WORK`` writes results/memory.json.

The shape of LDM-4 (400.9 M parameters) with random weights, on the CPU, four calibration images one at a time, through
the real command in a process of its own, whose greatest resident size the system reports. The schedule has a few
timesteps alone: gradients are summed in place, so that more of them take time and no memory. Wanted: under 12 GiB.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DDPMScheduler
from safetensors.numpy import save_file

from toolkit.core.environment import machine, versions
from toolkit.core.files import write_json
from toolkit.core.noise import generator, normal
from toolkit.models.build import build_model

RESULT = Path(__file__).parent / "results" / "memory.json"
LIMIT_GIB = 12.0
TIMESTEPS = 4
LDM_4 = {
    "sample_size": 64,
    "in_channels": 3,
    "out_channels": 3,
    "layers_per_block": 2,
    "cross_attention_dim": 512,
    "attention_head_dim": 1,
    "block_out_channels": (192, 384, 576, 960),
    "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 3),
    "up_block_types": (*("CrossAttnUpBlock2D",) * 3, "UpBlock2D"),
}


def make_model(folder: Path) -> int:
    """Write the model's folder; returns its parameters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build_model("UNet2DConditionModel", LDM_4, device="cpu")
    model.save_pretrained(folder / "unet")
    DDPMScheduler(num_train_timesteps=TIMESTEPS).save_pretrained(folder / "scheduler")
    save_file({"embedding.weight": normal("classes", 0, shape=(1001, 512))}, folder / "class_embedding.safetensors")
    return int(model.num_parameters())


def make_data(path: Path) -> None:
    """Write twenty labelled images of noise, of the latents' shape."""
    draw = generator("pixels", 0)
    np.savez(path, images=draw.integers(256, size=(20, 64, 64, 3), dtype=np.uint8), labels=np.arange(20))


def peak_gib(command: list[str], log: Path) -> tuple[float, float]:
    """Run a command; its greatest resident size in GiB, and the seconds it took."""
    started = time.monotonic()
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the command failed:\n{log.read_text()}")
    return usage.ru_maxrss / 2**20, time.monotonic() - started  # Linux counts in KiB


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("work", type=Path, help="folder for the model and the run")
    work: Path = arguments.parse_args().work
    params = make_model(work / "model")
    make_data(work / "images.npz")
    options = ["--target", "width=0.75", "--calibration-images", "4", "--calibration-batch-size", "1"]
    options += ["--no-recover", "--device", "cpu", "--overwrite"]
    model, run, images = (str(work / name) for name in ("model", "run", "images.npz"))
    command = ["-m", "toolkit", "compress", model, "-o", run, "--data", images]
    peak, seconds = peak_gib([sys.executable, *command, *options], work / "log")
    weights_gib = params * 4 / 2**30
    write_json(
        RESULT,
        {
            "question": "peak memory of pruning LDM-4's shape, random weights, float32, images one at a time",
            "params": params,
            "weights_gib": round(weights_gib, 3),
            "peak_rss_gib": round(peak, 3),
            "limit_gib": LIMIT_GIB,
            "within_limit": peak < LIMIT_GIB,
            "timesteps": TIMESTEPS,
            "options": options,
            "seconds": round(seconds, 1),
            "seconds_note": "other work ran next to it: the time says nothing, the memory does",
            "machine": machine("cpu"),
            "versions": versions(),
        },
    )


if __name__ == "__main__":
    main()
