"""TensorRT 8.6.0 where no later one is to be had: graphs as it takes them, built and timed in its own Python 3.10.

It reads ONNX up to opset 17, has no 64-bit timesteps, and takes InstanceNormalization, as which torch exports
GroupNorm, from a library that is not carried. So every GroupNorm is a reshape and LayerNormalization, an operator of
opset 17, and each graph is of one batch size. $DTK_TRT86 names the interpreter that unpacking the kind trt86 leaves.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.cifar10.latency import BATCHES, compressed_run
from benchmarks.cifar10.pieces import Pieces
from benchmarks.gpu.pieces import Found, Study, file_of
from exporters.parity import TOLERANCES, relative_errors
from toolkit.adapters.inputs import example_inputs
from toolkit.core.errors import DtkError
from toolkit.core.files import read_json, replacing, write_json
from toolkit.models.build import load_denoiser
from toolkit.models.conditioning import denoiser_inputs
from toolkit.models.folder import ModelFolder, find_model
from toolkit.models.precision import BorderedDenoiser
from toolkit.runners.onnxruntime import Session

OPSET, ROUNDS = 17, 200
WORKER = Path(__file__).with_name("trt86_worker.py")


class ReshapedGroupNorm(nn.Module):
    """GroupNorm as LayerNormalization over (B, groups, what belongs to one group)."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.groups, self.eps, self.weight, self.bias = norm.num_groups, norm.eps, norm.weight, norm.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` (B, C, ...) normalised."""
        count, channels, *sides = (int(size) for size in x.shape)
        size = channels * math.prod(sides) // self.groups
        flat = nn.functional.layer_norm(x.reshape(count, self.groups, size), (size,), eps=self.eps)
        wide = (1, channels, *(1 for _ in sides))
        return flat.reshape(count, channels, *sides) * self.weight.reshape(wide) + self.bias.reshape(wide)


def write_graph(model: ModelFolder, path: Path, batch: int) -> dict[str, torch.Tensor]:
    """Write the denoiser as float32 ONNX of opset 17 and one batch size, equal to torch's; returns its inputs."""
    denoiser = BorderedDenoiser(load_denoiser(model))
    inputs = example_inputs(denoiser_inputs(model, None), batch)
    inputs["timestep"] = inputs["timestep"].int()
    with torch.no_grad():
        expected = denoiser(**inputs)
        for module in list(denoiser.modules()):
            for name, child in module.named_children():
                if isinstance(child, nn.GroupNorm):
                    setattr(module, name, ReshapedGroupNorm(child))
        with replacing(path) as temporary, warnings.catch_warnings(action="ignore"):
            torch.onnx.export(
                denoiser,
                (inputs["sample"], inputs["timestep"], {n: t for n, t in inputs.items() if n not in _FIRST}),
                temporary,
                input_names=list(inputs),
                output_names=["prediction"],
                opset_version=OPSET,
                dynamo=False,
            )
    error = float(relative_errors(expected, Session(path)(inputs)["prediction"]).max())
    if not error <= TOLERANCES["fp32"]:
        raise DtkError(f"{path} does not compute what torch computes.", found=f"relative error {error:.3g}")
    np.save(path.with_suffix(".expected.npy"), expected.numpy())
    return inputs


_FIRST = ("sample", "timestep")


def measure(shape: str, study: Study) -> Found:
    """Dense and compressed of one shape at two batch sizes, if no later TensorRT ran."""
    earlier = study.results / f"{file_of(f'{shape}-tensorrt')}.json"
    if earlier.is_file() and "profile" in read_json(earlier):
        return {"skipped": "a later TensorRT runs here"}
    run = compressed_run(shape, study.work, Pieces(study.minutes), device=study.device, toy=study.toy)
    models = {"dense": find_model(_dense(run)), "compressed": find_model(run / "model")}
    batches = (2,) if study.toy else (BATCHES[shape][0], BATCHES[shape][-2])
    found = {str(batch): _timed(models, study.work / "trt86" / shape / str(batch), batch) for batch in batches}
    if not os.environ.get("DTK_TRT86"):
        return {"skipped": "the graphs are written and equal to torch's; $DTK_TRT86 names no Python 3.10 of `unpack`"}
    return {"shape": shape, "trt86": found}


def _timed(models: dict[str, ModelFolder], folder: Path, batch: int) -> dict[str, Any]:
    """Graphs, engines and times of both models; what is there is taken."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in models.items():
        graph = folder / f"{name}.onnx"
        if not graph.is_file():
            inputs = write_graph(model, graph, batch)
            arrays: dict[str, Any] = {key: tensor.numpy() for key, tensor in inputs.items()}
            np.savez(folder / "inputs.npz", **arrays)
        if os.environ.get("DTK_TRT86") and not graph.with_suffix(".plan").is_file():
            write_json(folder / f"{name}-build.json", _worker("build", graph, graph.with_suffix(".plan")))
    if not os.environ.get("DTK_TRT86"):
        return {}
    plans = [folder / f"{name}.plan" for name in models]
    times = _worker("time", folder / "inputs.npz", ROUNDS, *plans)
    for plan in plans:
        expected, actual = (np.load(plan.with_suffix(ending)) for ending in (".expected.npy", ".npy"))
        errors = relative_errors(torch.from_numpy(expected), torch.from_numpy(actual))
        times[plan.stem] |= {
            "relative_error": float(errors.max()),
            "build": read_json(folder / f"{plan.stem}-build.json"),
        }
    return times


def _worker(*arguments: object) -> dict[str, Any]:
    """What the worker says; its Python sees nothing of this one's."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LD_"))}
    command = [os.environ["DTK_TRT86"], str(WORKER), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise DtkError(f"TensorRT 8.6.0 failed at {arguments[0]}.", found=(done.stderr or done.stdout)[-500:])
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def _dense(run: Path) -> str | None:
    import yaml

    model: str | None = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))["model"]
    return model
