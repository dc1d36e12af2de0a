"""Requests to a server, by either protocol, and the image they must bring."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import ModuleType

import numpy as np
import torch
import tritonclient.grpc
import tritonclient.http

from toolkit.diffusion.sampling import sample
from toolkit.handoff.server import Server
from toolkit.models.build import load_denoiser
from toolkit.models.folder import find_model
from toolkit.models.schedulers import load_scheduler

PROTOCOLS = ("http", "grpc")
LEVEL = 1 / 255


def module(protocol: str) -> ModuleType:
    return {"http": tritonclient.http, "grpc": tritonclient.grpc}[protocol]


def client(server: Server, protocol: str = "http", **options: object) -> tritonclient.http.InferenceServerClient:
    address = {"http": server.http, "grpc": server.grpc}[protocol]
    return module(protocol).InferenceServerClient(address, **options)


def tensor(name: str, values: np.ndarray, dtype: str, protocol: str = "http") -> tritonclient.http.InferInput:
    made = module(protocol).InferInput(name, list(values.shape), dtype)
    made.set_data_from_numpy(values)
    return made


def ask(
    connection: tritonclient.http.InferenceServerClient,
    seeds: Sequence[int],
    steps: Sequence[int] | int | None = None,
    protocol: str = "http",
    outputs: Sequence[str] = ("IMAGE",),
    **options: object,
) -> dict[str, np.ndarray]:
    """The named outputs for ``seeds``, one row per image."""
    column = np.array(seeds, np.uint64)[:, None]
    inputs = [tensor("SEED", column, "UINT64", protocol)]
    if steps is not None:
        counts = np.broadcast_to(np.array(steps, np.int32), len(seeds))[:, None]
        inputs.append(tensor("STEPS", np.ascontiguousarray(counts), "INT32", protocol))
    wanted = [module(protocol).InferRequestedOutput(name) for name in outputs]
    result = connection.infer("sampler", inputs, outputs=wanted, **options)
    return {name: result.as_numpy(name) for name in outputs}


@cache
def reference(seed: int, steps: int) -> np.ndarray:
    """What dtk samples itself for ``seed`` with torch and diffusers' DDIM, float32 (C, H, W) in [0, 1]."""
    folder = find_model(None)
    denoiser = load_denoiser(folder)

    def predict(sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return denoiser(sample, timestep).sample

    (image,) = sample(predict, load_scheduler(folder), [seed], (1, 16, 16), steps)
    return (image / 2 + 0.5).clamp(0, 1).numpy()
