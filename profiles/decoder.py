"""What decoding costs next to the sampling loop, with the dense decoder and with the compressed model's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch

from profiles.latency import Timed, compare_calls, warm_up
from profiles.settings import ProfileSettings
from toolkit.adapters.base import InputSpec
from toolkit.adapters.inputs import example_inputs
from toolkit.core.numerics import torch_numerics
from toolkit.models.autoencoder import BATCH, open_autoencoder
from toolkit.models.decoder import BorderedDecoder
from toolkit.models.folder import ModelFolder
from toolkit.models.precision import stored_in
from toolkit.runners.base import parse_runner, runner_reads


def compare_decoders(models: Mapping[str, ModelFolder], settings: ProfileSettings, device: str) -> dict[str, Any]:
    """Both models' decoders in eager torch, in turns, at the largest batch: percentiles, speed-up and parameters.

    Images are decoded ``BATCH`` at a time, as the samplers do. Empty for models of pixels.
    """
    batch = max(settings.batches)
    calls = {which: _decoding(model, settings.dtype, batch, device) for which, model in models.items()}
    known = {which: call for which, call in calls.items() if call is not None}
    if not known:
        return {}
    with torch.inference_mode(), torch_numerics(tf32=settings.dtype == "tf32"):
        warm_up(list(known.values()), device)
        timed = {which: Timed(call, batch) for which, call in known.items()}
        return {"runner": "torch", "dtype": settings.dtype, "batch": batch} | compare_calls(
            timed, device, settings.rounds
        )


def _decoding(model: ModelFolder, dtype: str, batch: int, device: str) -> Callable[[], None] | None:
    autoencoder = open_autoencoder(model)
    if autoencoder is None:
        return None
    decoder = BorderedDecoder(autoencoder, stored_in(dtype)).to(device)
    latents = example_inputs({"latents": InputSpec(model.input_specs()["sample"].shape)}, batch, device=device)

    def decode(parts: tuple[torch.Tensor, ...]) -> None:
        for part in parts:
            decoder(part)

    return partial(decode, latents["latents"].split(BATCH))


def with_shares(decoders: dict[str, Any], runners: Mapping[str, Any]) -> dict[str, Any]:
    """The figures with ``share``: by runner in torch, the decoder's part of loop and decoding, dense and compressed."""
    loops = {name: timed["loop"] for name, timed in runners.items() if "loop" in timed and _in_torch(name)}
    shares = {
        name: {which: _share(decoders[which]["p50_ms"], loop[which]["p50_ms"]) for which in ("dense", "compressed")}
        for name, loop in loops.items()
        if decoders and loop["batch"] == decoders["batch"]
    }
    return decoders | ({"share": shares} if shares else {})


def _in_torch(name: str) -> bool:
    return runner_reads(parse_runner(name).name) == "model"


def _share(decoder_ms: float, loop_ms: float) -> float:
    return decoder_ms / (decoder_ms + loop_ms)
