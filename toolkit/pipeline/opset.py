"""The ONNX opset of an export: the fastest one over the runners at hand, measured on this machine and kept.

An opset decides the form of norms and attention: in parts (18), GroupNormalization as one node (21), Attention as well
(23). Which is fastest depends on the runner, and some refuse one: one file has to serve them all, so an opset that any
of them refuses is not taken while another is left.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch

from exporters.onnx import export_onnx
from exporters.settings import ExportSettings, auto_opsets
from exporters.tensorrt import collecting_logger, parse
from profiles.latency import clock_of, interleave
from profiles.settings import Rounds
from profiles.speedup import SAME, speedup
from toolkit.adapters.inputs import example_inputs
from toolkit.core.environment import machine, versions
from toolkit.core.errors import DtkError, MissingToolError, first_line
from toolkit.core.files import read_json, user_cache, value_sha256, write_json
from toolkit.core.progress import Progress
from toolkit.models.build import full_config, load_denoiser
from toolkit.models.conditioning import denoiser_inputs
from toolkit.models.folder import ModelFolder
from toolkit.runners.base import Runner, known_runners, open_runner, runner_reads, unavailable
from toolkit.runners.tensorrt_api import load_tensorrt

ROUNDS = Rounds(seconds=1.0, least=11, most=100)
Measured = dict[str, Any]


def choose_opset(model: ModelFolder, settings: ExportSettings, device: str, progress: Progress) -> Measured:
    """``opset`` with what it was chosen by: of each runner the speed of every opset over the first candidate's.

    ``margin`` is how much faster it is than the next best over all runners (geometric mean; 1 is equal). A measurement
    is kept in the user's cache by configuration, precision, batch size, versions and machine: weights do not matter.
    Raises DtkError if every candidate is refused by some runner.
    """
    candidates = auto_opsets(settings.dtype)
    if len(candidates) == 1:
        return {"opset": candidates[0]}
    requested = settings.model_dump(mode="json", include={"dtype", "keep_fp32", "tokens", "trt", "batch"})
    place = [model.class_name, full_config(model), requested, candidates, torch.get_num_threads(), machine(device)]
    entry = user_cache("opsets") / f"{value_sha256([*place, versions()])[:16]}.json"
    if not entry.is_file():
        write_json(entry, _chosen(candidates, _measured(model, settings, candidates, device, progress)))
    speeds: Measured = read_json(entry)
    return speeds


def _measured(
    model: ModelFolder, settings: ExportSettings, candidates: list[int], device: str, progress: Progress
) -> dict[str, dict[str, Any]]:
    """By runner and opset the speed relative to the first that it takes, with its interval, or how it refuses it."""
    work, specs = "opsets", denoiser_inputs(model, settings.tokens)
    how: dict[str, Any] = {"dtype": settings.dtype, "keep_fp32": settings.keep_fp32}
    with tempfile.TemporaryDirectory(prefix="dtk-opsets-") as scratch:
        files = {opset: Path(scratch) / f"{opset}.onnx" for opset in candidates}
        progress(work, 0, len(files) + 1)
        for done, (opset, path) in enumerate(files.items(), start=1):
            export_onnx(load_denoiser(model), specs, path, opset=opset, **how)
            progress(work, done, len(files) + 1)
        speeds = {}
        for name, at in _runners(device):
            inputs = example_inputs(specs, settings.batch.opt, device=at)
            speeds[name] = _speeds(name, at, files, inputs)
        if settings.trt:
            speeds["tensorrt"] = _parsed(files)
        progress(work, len(files) + 1, len(files) + 1)
    return speeds


def _runners(device: str) -> Iterator[tuple[str, str]]:
    """The runners of ONNX files that can run here, each with its device."""
    for name in known_runners():
        places = [at for at in (device, "cpu") if not unavailable(name, at)] if runner_reads(name) == "onnx" else []
        if places:
            yield name, places[0]


def _speeds(name: str, device: str, files: Mapping[int, Path], inputs: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    speeds: dict[str, Any] = {}
    with ExitStack() as stack:
        opened: dict[int, Runner] = {}
        for opset, path in files.items():
            try:
                runner = stack.enter_context(closing(open_runner(name, path, device=device)))
                runner(**inputs)
                opened[opset] = runner
            except DtkError as refusal:
                speeds[str(opset)] = {"refused": first_line(refusal)}
        calls = [partial(runner, **inputs) for runner in opened.values()]
        times_ms = list(interleave(calls, clock_of(device), ROUNDS)) if calls else []
        for opset, own_ms in zip(opened, times_ms, strict=True):
            speeds[str(opset)] = asdict(speedup(times_ms[0], own_ms))
    return speeds


def _parsed(files: Mapping[int, Path]) -> dict[str, Any]:
    """Whether TensorRT's parser takes each file; it is not timed, as a build takes minutes."""
    try:
        api = load_tensorrt()
    except MissingToolError:  # the exporter of engines says so when the ONNX files are there
        return {}
    parsed = {}
    for opset, path in files.items():
        logger = collecting_logger(api)
        try:
            parse(api, path, api.module.Builder(logger), logger)
        except DtkError as refusal:
            parsed[str(opset)] = {"refused": str(refusal).replace("\n ", ";")}
    return parsed


def _chosen(candidates: list[int], measured: Mapping[str, Mapping[str, Any]]) -> Measured:
    """The fastest opset that no runner refuses; an earlier candidate unless another is clearly faster."""
    refused = {o for o in candidates for of in measured.values() if "refused" in of.get(str(o), {})}
    left = [opset for opset in candidates if opset not in refused]
    if not left:
        faults = [of.get(str(left_out), {}) for of in measured.values() for left_out in candidates]
        reasons = dict.fromkeys(fault["refused"] for fault in faults if "refused" in fault)
        raise DtkError("No opset is taken by every runner here.", found="; ".join(reasons), do="add --opset N")
    timed = [of for of in measured.values() if "value" in of.get(str(left[0]), {})]
    speeds = {o: prod(of[str(o)]["value"] for of in timed) ** (1 / max(len(timed), 1)) for o in left}
    best = max(left, key=lambda opset: speeds[opset])
    best = left[0] if speeds[best] <= speeds[left[0]] * (1 + SAME) else best
    others = [speed for opset, speed in speeds.items() if opset != best]
    return {"opset": best, "margin": speeds[best] / max(others) if others else None, "runners": measured}
