"""The whole sampling loop: what an image costs from noise to pixels, denoiser, sampler and all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from profiles.latency import Call, Timed, compare_calls, warm_up
from profiles.opened import OpenRunners
from profiles.settings import ProfileSettings
from toolkit.diffusion.guidance import check_guidance, guided
from toolkit.diffusion.loop_graph import LoopGraph
from toolkit.diffusion.sampling import Predict, sample
from toolkit.diffusion.step_loop import SCALE, STEP, guided_inputs, refusal, sample_steps
from toolkit.models.conditioning import find_conditioning
from toolkit.models.folder import ModelFolder
from toolkit.models.schedulers import load_scheduler
from toolkit.runners.base import Runner, RunnerSpec, runner_reads

WARM_UP_LOOPS = 1  # of many calls each


class Taken(NamedTuple):
    """How a model is sampled: the ``steps`` it takes, and the ``guidance`` of each."""

    steps: int
    guidance: float

    def rows(self, batch: int) -> int:
        """How many rows a denoiser is called with for so many images."""
        return batch if self.guidance == 1 else 2 * batch


class Loops:
    """The sampling loop in any runner, with the scheduler of ``model``, from the same noise.

    ``taken`` says how each model is sampled: as the settings say, or as a taught one learned. ``step_graph`` is what
    the export says of the compressed model's step graph, None if there is none.

    With guidance the denoiser computes each step twice, in one batch of twice the size. Decoding is left out and
    measured beside it (profiles.decoder).
    """

    def __init__(
        self,
        model: ModelFolder,
        runners: OpenRunners,
        settings: ProfileSettings,
        taken: Mapping[str, Taken],
        step_graph: Mapping[str, Any] | None = None,
    ) -> None:
        self._taken, self._step_graph = taken, step_graph
        self._scheduler, self._runners, self._settings = load_scheduler(model), runners, settings
        if settings.guidance != 1:
            check_guidance(find_conditioning(model), settings.guidance)

    def timed(self, spec: RunnerSpec, which: str, batch: int) -> Timed:
        """A loop that makes ``batch`` images with the model ``which``."""
        runner = self._runners.runner(spec, which, self._taken[which].rows(batch))
        captured = getattr(runner, "uncaptured", None)
        return Timed(self._loop(runner, captured, runner, batch, self._taken[which]), batch)

    def idle(self, spec: RunnerSpec, batch: int) -> Timed:
        """The same loop with a denoiser that takes no time: all that lies outside the denoiser."""
        rows = self._taken["compressed"].rows(batch)
        runner = self._runners.runner(spec, "compressed", rows)
        prediction = runner(**self._runners.inputs(rows))

        def predict(sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
            return prediction

        captured = getattr(runner, "uncaptured", None) and predict
        return Timed(self._loop(predict, captured, runner, batch, self._taken["compressed"]), batch)

    def fused(self, spec: RunnerSpec, batch: int) -> dict[str, Timed]:
        """The compressed loop with the sampler's arithmetic in the graph, and the same with a step that takes no time.

        Nothing for a runner that reads no exported file, or if the export has no step graph of these steps and of this
        guidance.
        """
        described, (steps, guidance) = self._step_graph, self._taken["compressed"]
        if described is None or runner_reads(spec.name) == "model" or refusal(described, "ddim", steps):
            return {}
        if not Path(str(self._runners.sources(spec, STEP, batch))).is_file():
            return {}
        if guidance != 1 and SCALE not in described["inputs"]:
            return {}
        runner = self._runners.runner(spec, STEP, batch)
        conditioning = self._conditioning(batch)
        inputs = guided_inputs(described, conditioning, _first_rows(conditioning), guidance)

        def loop(step: Callable[..., torch.Tensor]) -> Timed:
            run = partial(sample_steps, step, described, range(batch), steps, inputs, device=runner.device)
            return Timed(run, batch)

        return {"fused": loop(runner), "fused_idle": loop(lambda sample, timestep, **rest: sample)}

    def _conditioning(self, batch: int) -> dict[str, torch.Tensor]:
        inputs = self._runners.inputs(batch)
        return {name: tensor for name, tensor in inputs.items() if name not in ("sample", "timestep")}

    def _loop(self, predict: Predict, captured: Predict | None, runner: Runner, batch: int, taken: Taken) -> Call:
        """The loop over ``predict``; over ``captured`` as one graph, if a runner's launches can be."""
        conditioning, steps = self._conditioning(batch), taken.steps
        null = _first_rows(conditioning)
        shape, device = self._runners.specs["sample"].shape, runner.device
        led = guided(captured or predict, null, taken.guidance)
        if captured:  # the loop is one graph, not a graph per step
            graph = LoopGraph(led, self._scheduler, batch, shape, steps, device=device, conditioning=conditioning)
            return lambda: graph(range(batch), conditioning)
        return lambda: sample(
            led, self._scheduler, range(batch), shape, steps, "ddim", device=device, conditioning=conditioning
        )

    def compare(self, timed: Mapping[str, Timed]) -> dict[str, Any]:
        """Loops by name in turns: seconds per image, images per second, and what ``compressed`` won."""
        settings = self._settings
        compared = compare_calls(timed, self._runners.device, settings.rounds, WARM_UP_LOOPS)
        for name in timed:
            compared[name]["seconds_per_image"] = 1 / compared[name]["images_per_s"]
        dense, own = self._taken["dense"], self._taken["compressed"]
        calls = {"calls_a_step": dense.rows(1), "compressed_calls_a_step": own.rows(1)}
        return {"sampler": "ddim", "steps": dense.steps, "compressed_steps": own.steps, **calls} | compared

    def measure(self, spec: RunnerSpec, batch: int) -> dict[str, Any]:
        """Both models' loops at ``batch`` in one runner, and the time outside the denoiser in each step.

        ``outside_share`` is that time over the compressed model's loop. ``fused``: the same of its step graph.
        """
        timed = {which: self.timed(spec, which, batch) for which in ("dense", "compressed")}
        warm_up([one.call for one in timed.values()], self._runners.device)
        loops = self.compare(timed | {"idle": self.idle(spec, batch)} | self.fused(spec, batch))
        loops |= self._outside(loops, "compressed", "idle")
        if "fused" in loops:
            loops["fused"] |= self._outside(loops, "fused", "fused_idle")
        return {"batch": batch} | loops

    def _outside(self, loops: dict[str, Any], loop: str, idle: str) -> dict[str, float]:
        """Takes the loop ``idle`` out of ``found``: all of the time of ``loop`` that its denoiser does not take."""
        idle_ms = loops.pop(idle)["p50_ms"]
        return {
            "outside_ms_per_step": idle_ms / self._taken["compressed"].steps,
            "outside_share": idle_ms / loops[loop]["p50_ms"],
        }


def _first_rows(conditioning: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What stands for the null condition: what it is does not change what it costs."""
    return {name: rows[:1] for name, rows in conditioning.items()}
