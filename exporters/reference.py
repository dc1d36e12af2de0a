"""What every rung of the ladder is held against: the model in torch, float32, and the images of its sampling loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch.utils.flop_counter import FlopCounterMode

from exporters.overflow import RangeWatch
from exporters.resume import KeptCalls
from exporters.settings import ExportSettings
from toolkit.adapters.inputs import example_inputs, positional
from toolkit.core.errors import DtkError
from toolkit.diffusion.few_steps import folded_guidance, own_steps
from toolkit.diffusion.sampling import sample
from toolkit.diffusion.step_loop import SCALE, UNCONDITIONAL
from toolkit.models.autoencoder import Autoencoder, open_autoencoder
from toolkit.models.build import build_model
from toolkit.models.conditioning import denoiser_inputs, find_conditioning
from toolkit.models.folder import ModelFolder
from toolkit.models.schedulers import load_scheduler

GUIDANCE = 3.0  # the largest scale in the comparison of the step graph


class Reference:
    """One model in torch, float32, on ``device``, and the noise and conditioning that what is exported is given too.

    Results of long calls are kept in ``kept``.
    """

    def __init__(self, model: ModelFolder, settings: ExportSettings, device: str, kept: KeptCalls) -> None:
        self.model, self.settings, self._device, self._kept = model, settings, device, kept
        self.scheduler = load_scheduler(model)
        self.loop_steps = own_steps(self.scheduler, settings.loop_steps)
        timesteps = self.scheduler.config.num_train_timesteps
        self.specs = denoiser_inputs(model, settings.tokens, timesteps=timesteps)

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        """The model's prediction."""
        return self._predict(sample, timestep, **conditioning)

    @cached_property
    def _predict(self) -> Callable[..., torch.Tensor]:
        return self._kept.around(f"torch {self.model.sha256}", self.watch, self.watch.magnitudes)

    @cached_property
    def watch(self) -> RangeWatch:
        """How large the numbers in it became so far."""
        return RangeWatch(self.model, self._device)

    @cached_property
    def gmacs(self) -> float:
        """The work of one call with one image."""
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            first, named = positional(example_inputs(self.specs, 1, device="meta"))
            build_model(self.model.class_name, self.model.config)(*first, **named)
        return counter.get_total_flops() / 2e9

    def affordable(self, calls: int) -> int:
        """How many images the settings allow if each takes so many calls of the model."""
        return int(self.settings.parity_gmacs / (self.gmacs * calls))

    @cached_property
    def seeds(self) -> range:
        """One for each image of the loop."""
        count = max(1, min(self.settings.loop_images, self.affordable(self.loop_steps)))
        return range(self.settings.seed, self.settings.seed + count)

    def images(self, predict: Callable[..., torch.Tensor], sampler: str) -> torch.Tensor:
        """Images or latents of the whole sampling loop, the same noise and conditioning for every runner."""
        shape, steps = self.specs["sample"].shape, self.loop_steps
        return sample(predict, self.scheduler, self.seeds, shape, steps, sampler, conditioning=self._conditioning)

    @cached_property
    def ddim_images(self) -> torch.Tensor:
        """Those of the model itself, by DDIM."""
        return self.images(self, "ddim")

    def guided_images(self, sampler: str) -> torch.Tensor:
        """Those of the model itself, guided if it can be."""
        return self.images(self._guided, sampler)

    def shown(self, images: torch.Tensor) -> torch.Tensor:
        """What is seen of a loop's result: the images of latents, else the result itself."""
        return self._autoencoder.decode(images) if self._autoencoder else images

    @cached_property
    def _autoencoder(self) -> Autoencoder | None:
        return open_autoencoder(self.model)

    @cached_property
    def _conditioning(self) -> dict[str, torch.Tensor]:
        inputs = example_inputs(self.specs, len(self.seeds), seed=self.settings.seed)
        return {name: tensor for name, tensor in inputs.items() if name not in ("sample", "timestep")}

    @property
    def is_guided(self) -> bool:
        """Whether the step graph takes a guidance scale: if there is a null condition, and none was folded in."""
        try:
            return find_conditioning(self.model).has_null and folded_guidance(self.scheduler) == 1
        except DtkError:  # a bare denoiser: nothing next to it says
            return False

    @cached_property
    def step_conditioning(self) -> dict[str, torch.Tensor]:
        """The step graph's conditioning; if guided also a scale per image and, as the null condition, other values."""
        if not self.is_guided:
            return self._conditioning
        null = example_inputs(self.specs, len(self.seeds), seed=self.settings.seed + 1)
        scales = torch.linspace(GUIDANCE, 0.0, len(self.seeds))  # of a single image not 0, which hides the condition
        nulls = {f"{UNCONDITIONAL}{name}": null[name] for name in self._conditioning}
        return self._conditioning | nulls | {SCALE: scales}

    def _guided(self, sample: torch.Tensor, timestep: torch.Tensor, **given: torch.Tensor) -> torch.Tensor:
        """Guidance by two calls (Ho and Salimans 2022, equation 6)."""
        towards = self(sample, timestep, **given)
        if not self.is_guided:
            return towards
        inputs = self.step_conditioning
        without = self(sample, timestep, **{name: inputs[f"{UNCONDITIONAL}{name}"] for name in given})
        return without + inputs[SCALE][:, None, None, None] * (towards - without)
