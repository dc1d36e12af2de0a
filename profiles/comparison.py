"""Dense and compressed side by side: their sizes and MACs, every runner's cells, and what was had before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from profiles.cells import Cells
from profiles.macs import count_macs, count_params
from profiles.node_parts import compare_node_parts
from profiles.opened import faults_named
from profiles.parts import compare_parts
from profiles.settings import ProfileSettings
from toolkit.adapters.inputs import example_inputs
from toolkit.core.errors import DtkError
from toolkit.core.numerics import torch_numerics
from toolkit.models.build import build_model, load_denoiser
from toolkit.models.conditioning import denoiser_inputs
from toolkit.models.folder import ModelFolder
from toolkit.models.precision import BorderedDenoiser, stored_in
from toolkit.models.weights import WEIGHTS
from toolkit.runners.base import RunnerSpec, open_node_times, parse_runner

Figures = dict[str, Any]
CONVENTION = "one MAC is two FLOPs; convolutions, linear layers and attention products, batch 1"


def compare_models(dense: ModelFolder, compressed: ModelFolder, tokens: int | None = None) -> dict[str, Any]:
    """Params, MACs and weight bytes of both under ``models``, and their ratios dense / compressed under ``ratios``."""
    figures = {"dense": model_figures(dense, tokens), "compressed": model_figures(compressed, tokens)}
    counted = ("params", "macs", "macs_without_attention_products", "weights_bytes")
    ratios = {name: figures["dense"][name] / figures["compressed"][name] for name in counted}
    return {"convention": CONVENTION, "models": figures, "ratios": ratios}


def model_figures(model: ModelFolder, tokens: int | None = None) -> dict[str, Any]:
    """Params, MACs by kind and by part, and the bytes of the weight files of one model."""
    network = build_model(model.class_name, model.config)
    inputs = example_inputs(denoiser_inputs(model, tokens), 1, device="meta")
    macs = count_macs(network, inputs)
    return {
        "params": count_params(network),
        "macs": macs.macs,
        "macs_without_attention_products": macs.macs_without_attention_products,
        "macs_by_kind": dict(macs.by_kind),
        "macs_by_part": {part: dict(kinds) for part, kinds in macs.by_part.items()},
        "weights_bytes": sum(path.stat().st_size for path in model.denoiser.glob(WEIGHTS)),
    }


def compare_runners(cells: Cells, specs: Sequence[RunnerSpec], macs_ratio: float, batches: Sequence[int]) -> Figures:
    """``runners``, ``baselines`` and ``headline``: every cell of ``specs``, and what the best of them won.

    A runner has ``latency`` by batch size, and of the largest one the whole ``loop`` and peak ``memory``; a cell that
    was refused stands under ``refused`` instead. ``realised_share`` is the speed-up over the MACs ratio: 1 if every
    MAC saved is time saved. ``baselines``: by precision and batch size, the dense model without dtk.
    """
    precisions = {spec: cells.runners.precision(spec) for spec in specs}
    baselines = {
        dtype: {str(batch): cells.baseline(dtype, batch) for batch in batches}
        for dtype in dict.fromkeys(precisions.values())
    }
    _refuse_unmeasured(baselines)
    best = {one["best"] for by_batch in baselines.values() for one in by_batch.values()}
    cells.runners.close(but=best)
    runners = {}
    for spec, dtype in precisions.items():
        chosen = {batch: baselines[dtype][str(batch)]["best"] for batch in batches}
        runners[str(spec)] = {"dtype": dtype} | _compare_runner(cells, spec, macs_ratio, chosen)
        cells.runners.close(but=best)
    return {"baselines": baselines, "runners": runners, "headline": _headline(cells, runners, baselines)}


def _compare_runner(cells: Cells, spec: RunnerSpec, macs_ratio: float, baselines: Mapping[int, str]) -> Figures:
    largest = max(baselines)
    measured: Figures = {"threads": torch.get_num_threads(), "open_s": {}, "latency": {}, "refused": {}}
    for batch, baseline in baselines.items():
        cell = cells.latency(spec, batch, baseline)
        if "refused" in cell:
            measured["refused"][str(batch)] = cell
            continue
        measured["open_s"] = measured["open_s"] or cell["open_s"]
        share = {"realised_share": cell["speedup"]["value"] / macs_ratio}
        measured["latency"][str(batch)] = {name: one for name, one in cell.items() if name != "open_s"} | share
    if loop := cells.loop(spec, largest):
        (measured["refused"] if "refused" in loop else measured)["loop"] = loop
    return measured | {"memory": cells.memory(spec, largest)}


def _refuse_unmeasured(baselines: Figures) -> None:
    """Raise DtkError if a baseline was refused: nothing could be compared with it."""
    for dtype, by_batch in baselines.items():
        for batch, measured in by_batch.items():
            if "refused" in measured:
                raise DtkError(
                    f"The dense baselines in {dtype} at batch {batch} could not be measured.",
                    found=measured["refused"],
                    do="let the GPU cool down and lock its clocks (nvidia-smi --lock-gpu-clocks), then profile again",
                )


def _headline(cells: Cells, runners: Figures, baselines: Figures) -> Figures | None:
    """``had`` and ``now``: the best dense baseline and the best compressed cell of its precision, and their ratio."""
    places = [(timed["latency"][batch], name, batch) for name, timed in runners.items() for batch in timed["latency"]]
    if not places:
        return None
    _, name, batch = max(places, key=lambda place: place[0]["compressed"]["images_per_s"])
    dtype = runners[name]["dtype"]
    rows = [(by_batch["rows"][by_batch["best"]], by_batch["best"], size) for size, by_batch in baselines[dtype].items()]
    _, baseline, size = max(rows, key=lambda row: row[0]["images_per_s"])
    now, had = (parse_runner(name), int(batch)), (parse_runner(baseline), int(size))
    gain = cells.gain(now, had)
    places_of = {"now": {"runner": name, "batch": int(batch)}, "had": {"runner": baseline, "batch": int(size)}}
    return {"dtype": dtype, **places_of, **gain}


def compare_network_parts(
    dense: ModelFolder, compressed: ModelFolder, settings: ProfileSettings, device: str
) -> dict[str, Any]:
    """Time of each top-level part of both networks in eager torch, at the largest batch."""
    batch = max(settings.batches)
    inputs = example_inputs(denoiser_inputs(dense, settings.tokens), batch, device=device)
    dtype = stored_in(settings.dtype)
    first, second = (BorderedDenoiser(load_denoiser(model), dtype).to(device) for model in (dense, compressed))
    with torch_numerics(tf32=settings.dtype == "tf32"):
        parts = compare_parts(first, second, inputs, device, settings.rounds)
    return {"runner": "torch", "batch": batch} | parts


def compare_exported_parts(
    name: str,
    options: Mapping[str, Any],
    sources: Mapping[str, ModelFolder | Path],
    files: Mapping[str, Path],
    model: ModelFolder,
    settings: ProfileSettings,
    device: str,
) -> dict[str, Any]:
    """Time of each part of both networks in the runner ``name``, opened with ``options``, by its own profiler.

    At the largest batch. ``files`` are the ONNX files of ``sources``. Empty if the runner has no such profiler.
    """
    batch = max(settings.batches)
    inputs = example_inputs(denoiser_inputs(model, settings.tokens), batch, device=device)
    first, second = (
        open_node_times(name, Path(str(sources[which])), device, **options) for which in ("dense", "compressed")
    )
    if first is None or second is None:
        return {}
    with faults_named(name, device, batch):
        parts = compare_node_parts(first, second, files, inputs, device, settings.rounds)
    return {"runner": name, "batch": batch} | parts
