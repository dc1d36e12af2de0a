"""The whole sampling loop: what an image costs from noise to pixels, denoiser, sampler and all."""

from __future__ import annotations

from typing import Any

from profiles.latency import Call, compare_calls
from profiles.settings import ProfileSettings
from toolkit.adapters.base import InputSpec
from toolkit.adapters.inputs import example_inputs
from toolkit.diffusion.guidance import check_guidance, guided
from toolkit.diffusion.loop_graph import LoopGraph
from toolkit.diffusion.sampling import sample
from toolkit.models.conditioning import find_conditioning
from toolkit.models.folder import ModelFolder, load_scheduler
from toolkit.runners.base import Runner
from toolkit.runners.cuda_graph import CudaGraphRunner

WARM_UP_LOOPS = 1  # of many calls each


def compare_loops(
    dense: Runner,
    compressed: Runner,
    model: ModelFolder,
    specs: dict[str, InputSpec],
    settings: ProfileSettings,
) -> dict[str, Any]:
    """Seconds per image and images per second over ``settings.loop_steps`` steps at the largest batch, interleaved.

    Both runners sample the same images' noise with the dense model's scheduler. With guidance the denoiser computes
    each step twice, in one batch of twice the size. An autoencoder is left out: compression does not touch it.
    """
    batch, scheduler = max(settings.batches), load_scheduler(model)
    inputs = example_inputs(specs, batch, device=dense.device)
    conditioning = {name: tensor for name, tensor in inputs.items() if name not in ("sample", "timestep")}
    if settings.guidance != 1:
        check_guidance(find_conditioning(model), settings.guidance)
    null = {name: rows[:1] for name, rows in conditioning.items()}  # what it is does not change what it costs

    shape, steps = specs["sample"].shape, settings.loop_steps

    def loop_of(runner: Runner) -> Call:
        if isinstance(runner, CudaGraphRunner):  # the loop is one graph, not a graph per step
            predict = guided(runner.uncaptured, null, settings.guidance)
            graph = LoopGraph(predict, scheduler, batch, shape, steps, device=runner.device, conditioning=conditioning)
            return lambda: graph(range(batch), conditioning)
        predict = guided(runner, null, settings.guidance)
        return lambda: sample(
            predict, scheduler, range(batch), shape, steps, "ddim", device=runner.device, conditioning=conditioning
        )

    measured = compare_calls(loop_of(dense), loop_of(compressed), dense.device, batch, settings.rounds, WARM_UP_LOOPS)
    for name in ("dense", "compressed"):
        measured[name]["seconds_per_image"] = 1 / measured[name]["images_per_s"]
    calls = 1 if settings.guidance == 1 else 2
    facts = {"batch": batch, "sampler": "ddim", "steps": settings.loop_steps, "calls_a_step": calls}
    return facts | measured
