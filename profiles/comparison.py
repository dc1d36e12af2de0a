"""Dense and compressed side by side: their sizes and MACs, and one runner's latency and memory at every batch size."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import torch

from profiles.latency import compare_latency
from profiles.loop import compare_loops
from profiles.macs import count_macs, count_params
from profiles.memory import measure_memory
from profiles.node_parts import compare_node_parts
from profiles.parts import compare_parts
from profiles.settings import ProfileSettings
from toolkit.adapters.base import InputSpec
from toolkit.adapters.inputs import example_inputs
from toolkit.core.errors import DtkError, first_line
from toolkit.models.conditioning import denoiser_inputs
from toolkit.models.folder import ModelFolder, build_model, load_denoiser
from toolkit.models.precision import BorderedDenoiser
from toolkit.models.weights import WEIGHTS
from toolkit.runners.base import Runner, open_node_times, open_runner, precision_options

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


def compare_runner(
    name: str,
    sources: Mapping[str, ModelFolder | Path],
    model: ModelFolder,
    macs_ratio: float,
    settings: ProfileSettings,
    device: str,
    done: Callable[[], None],
) -> dict[str, Any]:
    """Latency of ``sources`` dense and compressed in one runner by batch size, of the whole loop, and peak memory.

    Loop and memory are of the largest batch. ``open_s`` is what loading or building took; ``realised_share`` is the
    speed-up over the MACs ratio: 1 if every MAC saved is time saved.
    """
    specs = denoiser_inputs(model, settings.tokens)
    options = precision_options(name, settings.dtype)
    measured: dict[str, Any] = {"threads": torch.get_num_threads(), "open_s": {}, "latency": {}}
    opened: dict[str, Runner] = {}
    with ExitStack() as stack:
        for which in ("dense", "compressed"):
            started = time.perf_counter()
            opened[which] = stack.enter_context(closing(open_runner(name, sources[which], device=device, **options)))
            measured["open_s"][which] = time.perf_counter() - started
        for batch in settings.batches:
            inputs = example_inputs(specs, batch, device=device)
            with faults_named(name, device, batch):
                cell = compare_latency(**opened, inputs=inputs, rounds=settings.rounds)
            measured["latency"][str(batch)] = cell | {"realised_share": cell["speedup"]["value"] / macs_ratio}
            done()
        if settings.loop_steps:
            with faults_named(name, device, max(settings.batches)):
                measured["loop"] = compare_loops(**opened, model=model, specs=specs, settings=settings)
            done()
    memory = _memory(name, sources, specs, max(settings.batches), device, options, done)
    return measured | {"memory": memory}


@contextmanager
def faults_named(name: str, device: str, batch: int) -> Iterator[None]:
    """A fault of a runner while it is measured (memory that ran out, a device that is gone) as a DtkError."""
    try:
        yield
    except DtkError:
        raise
    except Exception as error:  # the runners' errors share no base class
        raise DtkError(
            f"The runner {name} failed on {device} while batch {batch} was measured.",
            found=first_line(error),
            do="leave out this batch size if memory ran out; `dtk doctor` tells whether the device still answers",
        ) from error


def compare_network_parts(
    dense: ModelFolder, compressed: ModelFolder, settings: ProfileSettings, device: str
) -> dict[str, Any]:
    """Time of each top-level part of both networks in eager torch, at the largest batch."""
    batch = max(settings.batches)
    inputs = example_inputs(denoiser_inputs(dense, settings.tokens), batch, device=device)
    first, second = (BorderedDenoiser(load_denoiser(model), settings.dtype).to(device) for model in (dense, compressed))
    parts = compare_parts(first, second, inputs, device, settings.rounds)
    return {"runner": "torch", "batch": batch} | parts


def compare_exported_parts(
    name: str,
    sources: Mapping[str, ModelFolder | Path],
    files: Mapping[str, Path],
    model: ModelFolder,
    settings: ProfileSettings,
    device: str,
) -> dict[str, Any] | None:
    """Time of each part of both networks in the runner ``name`` by its own profiler, at the largest batch.

    ``files`` are the ONNX files of ``sources``. None if the runner has no such profiler.
    """
    batch = max(settings.batches)
    inputs = example_inputs(denoiser_inputs(model, settings.tokens), batch, device=device)
    first, second = (open_node_times(name, Path(str(sources[which])), device) for which in ("dense", "compressed"))
    if first is None or second is None:
        return None
    with faults_named(name, device, batch):
        parts = compare_node_parts(first, second, files, inputs, device, settings.rounds)
    return {"runner": name, "batch": batch} | parts


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
