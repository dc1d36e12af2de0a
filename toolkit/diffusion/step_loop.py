"""The sampling loop over a step graph: what runs the graph does the sampler's arithmetic too, one call a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from toolkit.core.noise import sample_noise

if TYPE_CHECKING:
    import torch

STEP = "compressed_step"
"""The name of the compressed model's step graph among the files of a run."""
UNCONDITIONAL = "unconditional_"
"""Before the name of a conditioning input: the same of the null condition."""
SCALE = "guidance_scale"


def refusal(description: Mapping[str, Any], sampler: str, steps: int) -> str | None:
    """Why a step graph cannot be run along these steps, in words; None if it can.

    ``description`` is the JSON next to its file, which exporters.step writes.
    """
    if description["sampler"] != sampler:
        return f"its step graph holds the sampler {description['sampler']}, not {sampler}"
    if str(steps) not in description["schedules"]:
        return f"its step graph has no coefficients for {steps} steps"
    return None


def guided_inputs(
    description: Mapping[str, Any],
    conditioning: Mapping[str, torch.Tensor],
    null: Mapping[str, torch.Tensor],
    guidance: float,
) -> dict[str, torch.Tensor]:
    """What a step graph takes besides its loop's own: ``conditioning`` (B, ...) and, of a guided graph, scale and null.

    ``null`` holds the null condition's inputs, one row.
    """
    import torch

    if SCALE not in description["inputs"]:
        return dict(conditioning)
    nulls = {UNCONDITIONAL + name: null[name].expand_as(rows).contiguous() for name, rows in conditioning.items()}
    rows = next(iter(conditioning.values()))
    return {**conditioning, **nulls, SCALE: torch.full((len(rows),), float(guidance), device=rows.device)}


def sample_steps(
    step: Callable[..., torch.Tensor],
    description: Mapping[str, Any],
    seeds: Sequence[int],
    steps: int,
    inputs: Mapping[str, torch.Tensor] | None = None,
    *,
    device: str = "cpu",
) -> torch.Tensor:
    """Sample one image a seed, float32 (B, C, H, W), as toolkit.diffusion.sampling.sample does, by calling ``step``.

    ``step`` is a runner, on ``device``, of the graph that ``description`` describes; ``inputs`` is what
    ``guided_inputs`` gives. The tables are read before the loop: between two calls nothing is computed.
    """
    import torch

    schedule, count = description["schedules"][str(steps)], len(seeds)
    shape = tuple(description["inputs"]["sample"]["shape"][1:])

    def noise(number: int) -> torch.Tensor:
        return torch.from_numpy(sample_noise(seeds, number, shape)).to(device)

    timesteps = torch.tensor(schedule["timesteps"], device=device)[:, None].repeat(1, count)
    coefficients = torch.tensor(schedule["coefficients"], device=device)[:, None].repeat(1, count, 1)
    noisy = "noise" in description["inputs"]
    x = noise(0) * description["initial_sigma"]
    for number, (timestep, row) in enumerate(zip(timesteps, coefficients, strict=True), start=1):
        drawn = {"noise": noise(number)} if noisy else {}
        x = step(x, timestep, coefficients=row, **drawn, **(inputs or {}))
    return x
