"""What a denoiser takes: names, shapes and example values of its inputs, read off its config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from toolkit.adapters.base import TOKENS, InputSpec, adapter_of
from toolkit.core.errors import DtkError
from toolkit.core.noise import generator

if TYPE_CHECKING:
    import torch

ADDED = ("text_embeds", "time_ids")


def input_specs(
    class_name: str, config: Mapping[str, Any], *, timesteps: int = 1000, tokens: int = TOKENS
) -> dict[str, InputSpec]:
    """The inputs of a denoiser in the order of its call: sample, timestep, then what conditions it.

    ``timesteps`` is the number of training timesteps T, ``tokens`` the length of a text context.
    Raises DtkError for a class that is not known or a config that leaves the shape open.
    """
    adapter = adapter_of(class_name)
    size = config.get("sample_size")
    if size is None:
        raise DtkError(
            f"The config of this {class_name} has no sample_size, so the shape of its input is not known.",
            do="put the height and width it was trained at into config.json as sample_size",
        )
    height, width = (size, size) if isinstance(size, int) else size
    return {
        "sample": InputSpec((config["in_channels"], height, width)),
        **({"timestep": InputSpec((), "int64", timesteps)} if adapter.timed else {}),
        **adapter.conditioning_inputs(dict(config), tokens),
    }


def positional(inputs: Mapping[str, torch.Tensor]) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """Sample and timestep to give by position (DiT calls its sample ``hidden_states``), the rest to give by name."""
    first = [inputs[name] for name in ("sample", "timestep") if name in inputs]
    return first, keywords({name: tensor for name, tensor in inputs.items() if name not in ("sample", "timestep")})


def keywords(conditioning: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Conditioning inputs as the keywords of a diffusers denoiser's call: SDXL takes some of them in a dictionary."""
    added = {name: tensor for name, tensor in conditioning.items() if name in ADDED}
    rest = {name: tensor for name, tensor in conditioning.items() if name not in ADDED}
    return rest | ({"added_cond_kwargs": added} if added else {})


def example_inputs(
    specs: Mapping[str, InputSpec], batch: int, *, seed: int = 0, device: str = "cpu"
) -> dict[str, torch.Tensor]:
    """Reproducible inputs of ``batch`` items: normal, or uniform where they are bounded; on ``meta`` shapes only.

    Item i is the same in every batch, so that batches of different sizes can be compared.
    """
    import torch

    if device == "meta":
        return {
            name: torch.empty((batch, *spec.shape), dtype=getattr(torch, spec.dtype), device="meta")
            for name, spec in specs.items()
        }
    items = {
        name: np.stack([_example(name, spec, seed, item) for item in range(batch)]) for name, spec in specs.items()
    }
    return {name: torch.from_numpy(values).to(device) for name, values in items.items()}


def _example(name: str, spec: InputSpec, seed: int, item: int) -> np.ndarray:
    draw = generator(f"example {name}", seed, item)
    if spec.dtype == "int64":
        return np.asarray(draw.integers(spec.upper, size=spec.shape, dtype=np.int64))
    if spec.upper:
        return np.asarray(draw.random(spec.shape, dtype=np.float32) * np.float32(spec.upper))
    return draw.standard_normal(spec.shape, dtype=np.float32)
