"""Dense beside compressed: their sizes and MACs, and one runner's latency and memory at every batch size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import torch

from profiles.config import ProfileSettings
from profiles.latency import compare_latency
from profiles.macs import count_macs, count_params
from profiles.memory import measure_memory
from toolkit.denoiser_inputs import InputSpec, example_inputs, input_specs
from toolkit.models import WEIGHTS, ModelFolder, build
from toolkit.runners.registry import open_runner, runner_reads

CONVENTION = "one MAC is two FLOPs; convolutions, linear layers and attention products, batch 1"


def compare_models(dense: ModelFolder, compressed: ModelFolder, tokens: int) -> dict[str, Any]:
    """Params, MACs and weight bytes of both under ``models``, and their ratios dense / compressed under ``ratios``."""
    figures = {"dense": model_figures(dense, tokens), "compressed": model_figures(compressed, tokens)}
    counted = ("params", "macs", "macs_without_attention_products", "weights_bytes")
    ratios = {name: figures["dense"][name] / figures["compressed"][name] for name in counted}
    return {"convention": CONVENTION, "models": figures, "ratios": ratios}


def model_figures(model: ModelFolder, tokens: int) -> dict[str, Any]:
    """Params, MACs by kind and by part, and the bytes of the weight files of one model."""
    network = build(model.class_name, model.config)
    inputs = example_inputs(input_specs(model.class_name, model.config, tokens=tokens), 1, device="meta")
    macs = count_macs(network, inputs)
    return {
        "params": count_params(network),
        "macs": macs.macs,
        "macs_without_attention_products": macs.macs_without_attention_products,
        "macs_by_kind": dict(macs.by_kind),
        "macs_by_part": {part: dict(kinds) for part, kinds in macs.by_part.items()},
        "weights_bytes": sum(path.stat().st_size for path in model.denoiser.glob(WEIGHTS)),
    }


def compare_runner(
    name: str,
    sources: Mapping[str, ModelFolder | Path],
    model: ModelFolder,
    macs_ratio: float,
    settings: ProfileSettings,
    device: str,
    done: Callable[[], None],
) -> dict[str, Any]:
    """Latency of ``sources`` dense and compressed in one runner by batch size, and peak memory at the largest.

    ``realised_share`` is the speed-up over the MACs ratio: 1 where every MAC saved is time saved.
    """
    specs = input_specs(model.class_name, model.config, tokens=settings.tokens)
    options: dict[str, str] = {"dtype": settings.dtype} if runner_reads(name) == "model" else {}
    with (
        closing(open_runner(name, sources["dense"], device=device, **options)) as dense,
        closing(open_runner(name, sources["compressed"], device=device, **options)) as compressed,
    ):
        latency = {}
        for batch in settings.batches:
            measured = compare_latency(dense, compressed, example_inputs(specs, batch, device=device), settings.rounds)
            latency[str(batch)] = measured | {"realised_share": measured["speedup"]["value"] / macs_ratio}
            done()
    memory = _memory(name, sources, specs, max(settings.batches), device, options, done)
    return {"threads": torch.get_num_threads(), "latency": latency, "memory": memory}


def _memory(
    name: str,
    sources: Mapping[str, ModelFolder | Path],
    specs: dict[str, InputSpec],
    batch: int,
    device: str,
    options: dict[str, str],
    done: Callable[[], None],
) -> dict[str, Any]:
    figures = {}
    for which, source in sources.items():
        figures[which] = measure_memory(name, source, specs, batch, device=device, options=options)
        done()
    return figures
