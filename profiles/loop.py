"""The whole sampling loop: what an image costs from noise to pixels, denoiser, sampler and all."""

from __future__ import annotations

from typing import Any

from profiles.config import ProfileSettings
from profiles.latency import Call, compare_calls
from toolkit.denoiser_inputs import InputSpec, example_inputs
from toolkit.loop_graph import LoopGraph
from toolkit.models import ModelFolder, load_scheduler
from toolkit.runners.base import Runner
from toolkit.runners.cuda_graph import CudaGraphRunner
from toolkit.sampling import sample

WARM_UP_LOOPS = 1  # of many calls each


def compare_loops(
    dense: Runner,
    compressed: Runner,
    model: ModelFolder,
    specs: dict[str, InputSpec],
    settings: ProfileSettings,
) -> dict[str, Any]:
    """Seconds an image and images a second over ``settings.loop_steps`` steps at the largest batch, in turns.

    Both runners sample the same images' noise with the dense model's scheduler. One call of the denoiser a step:
    classifier-free guidance would double it.
    """
    batch, scheduler = max(settings.batches), load_scheduler(model)
    inputs = example_inputs(specs, batch, device=dense.device)
    conditioning = {name: tensor for name, tensor in inputs.items() if name not in ("sample", "timestep")}

    shape, steps = specs["sample"].shape, settings.loop_steps

    def loop_of(runner: Runner) -> Call:
        if isinstance(runner, CudaGraphRunner):  # the loop is one graph, not a graph a step
            graph = LoopGraph(
                runner.uncaptured, scheduler, batch, shape, steps, device=runner.device, conditioning=conditioning
            )
            return lambda: graph(range(batch), conditioning)
        return lambda: sample(
            runner, scheduler, range(batch), shape, steps, "ddim", device=runner.device, conditioning=conditioning
        )

    measured = compare_calls(loop_of(dense), loop_of(compressed), dense.device, batch, settings.rounds, WARM_UP_LOOPS)
    for name in ("dense", "compressed"):
        measured[name]["seconds_per_image"] = 1 / measured[name]["images_per_s"]
    return {"batch": batch, "sampler": "ddim", "steps": settings.loop_steps} | measured
