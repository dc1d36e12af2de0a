"""The sampling loop: noise in, images out, for any runner and diffusers' own schedulers.

All noise comes from toolkit.core.noise, one seed per image, so an image does not depend on the batch it was made in.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from toolkit.core.errors import UsageError, first_line, unknown
from toolkit.core.noise import sample_noise

if TYPE_CHECKING:
    import torch


class Predict(Protocol):
    """The denoiser: a toolkit.runners Runner, or any function of the same form."""

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor: ...


class SamplerStep(Protocol):
    """One step of a sampler: x_{t-1} from the prediction at (x_t, t); ``noise`` is drawn only by one that calls it."""

    def __call__(
        self,
        scheduler: Any,
        prediction: torch.Tensor,
        timestep: int,
        sample: torch.Tensor,
        noise: Callable[[], torch.Tensor],
    ) -> torch.Tensor: ...


@dataclass(frozen=True)
class Sampler:
    """A diffusers scheduler class by name, and how its step is taken."""

    scheduler_class: str
    step: SamplerStep


def sample(
    predict: Predict,
    scheduler: Any,
    seeds: Sequence[int],
    shape: tuple[int, ...],
    steps: int,
    sampler: str = "ddim",
    *,
    device: str = "cpu",
    conditioning: Mapping[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Sample one image per seed: float32 (B, C, H, W) in the model's output range, not clipped, on ``device``.

    ``scheduler`` is the model's own; only its config is used. ``shape`` is one image's (C, H, W); ``conditioning``
    holds tensors with a leading batch dimension, one row per seed. The samplers: ``ddim`` (Song et al. 2021, eta 0),
    ``ddpm`` (ancestral; Ho et al. 2020, algorithm 2), ``dpm-solver`` (DPM-Solver++ 2M; Lu et al. 2022) and ``unipc``
    (UniPC; Zhao et al. 2023).

    Raises UsageError for an unknown sampler or a number of steps the scheduler cannot take.
    """
    import torch

    stepper = build_scheduler(scheduler, sampler, steps)  # on the CPU: to read it must not wait for the device

    def noise(number: int) -> torch.Tensor:
        return torch.from_numpy(sample_noise(seeds, number, shape)).to(device)

    timesteps = [int(timestep) for timestep in stepper.timesteps]
    steps_to_take = ((t, torch.full((len(seeds),), t, dtype=torch.int64, device=device)) for t in timesteps)
    with torch.no_grad():
        start = noise(0) * stepper.init_noise_sigma
        return denoise(predict, stepper, sampler, start, steps_to_take, conditioning or {}, noise)


def denoise(
    predict: Predict,
    stepper: Any,
    sampler: str,
    x: torch.Tensor,
    steps_to_take: Iterable[tuple[int, torch.Tensor]],
    conditioning: Mapping[str, torch.Tensor],
    noise: Callable[[int], torch.Tensor] | None = None,
) -> torch.Tensor:
    """The loop itself: from ``x`` at the first timestep to the images.

    ``steps_to_take`` gives each timestep as a number and as a tensor (B,) int64; ``noise`` draws a step's noise by its
    number, for a sampler that needs any. Nothing here waits for a device.
    """
    for number, (timestep, batched) in enumerate(steps_to_take, start=1):
        prediction = predict(stepper.scale_model_input(x, timestep), batched, **conditioning)
        x = SAMPLERS[sampler].step(stepper, prediction, timestep, x, partial(noise or _none, number))
    return x


def _none(number: int) -> torch.Tensor:
    raise AssertionError("a sampler without noise requested some")


def build_scheduler(scheduler: Any, sampler: str, steps: int) -> Any:
    """The sampler's scheduler with the noise levels of the model's own, set to ``steps`` steps.

    ``from_config`` would drop what the config marks as left at its default, and diffusers marks positional arguments so
    as well: without the mark the other class takes over every value.
    """
    import diffusers

    if sampler not in SAMPLERS:
        raise unknown("sampler", sampler, list(SAMPLERS))
    longest = scheduler.config.num_train_timesteps
    if not 1 <= steps <= longest:
        raise UsageError(f"Cannot sample in {steps} steps.", expected=f"1 to {longest}, the steps it was trained with")
    idle = {"_use_default_values"} | ({"variance_type"} if sampler != "ddpm" else set())
    # DPM-Solver's class would cut a prediction with a learned variance to three channels, which a latent has more of
    scheduler_class = getattr(diffusers, SAMPLERS[sampler].scheduler_class)
    config = described(scheduler, scheduler_class, without=idle)
    try:
        built = scheduler_class.from_config(config)
        built.set_timesteps(steps)
    except (ValueError, NotImplementedError) as error:  # diffusers' classes do not all know the same noise levels
        found = f"{type(scheduler).__name__}: {first_line(error)}"
        raise UsageError(f"The sampler {sampler} cannot sample this model in {steps} steps.", found=found) from error
    if (first := int(max(built.timesteps))) >= longest:
        raise UsageError(
            f"Cannot sample in {steps} steps.",
            found=f"a first timestep of {first}, by steps_offset {config.get('steps_offset')}",
            expected=f"at most {longest - 1}, the last it was trained with",
        )
    return built


SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")  # that all classes know; sigmoid is DDPM's alone


def described(scheduler: Any, as_class: type, *, without: Iterable[str] = ()) -> dict[str, Any]:
    """The fields of a model's scheduler that a scheduler ``as_class`` takes over, but those ``without``.

    Another class takes what DDPM's and DDIM's know, the noise levels, clipping and spacing, and not how the model's own
    solves. They clip unless they are told not to, which a scheduler without the field never did. Of DPM-Solver++ the
    deterministic one is taken, as the stochastic one draws its noise itself. What is private goes along.
    """
    import diffusers

    config = {name: value for name, value in scheduler.config.items() if name not in without}
    if not isinstance(scheduler, as_class):
        classes = (diffusers.DDPMScheduler, diffusers.DDIMScheduler)
        known = {name for one in classes for name in inspect.signature(one).parameters}
        config = {n: value for n, value in config.items() if n[0] == "_" or (n in known and value is not None)}
        if config.get("beta_schedule") not in SCHEDULES:
            config |= {"trained_betas": scheduler.betas.tolist(), "rescale_betas_zero_snr": False}
    elif "algorithm_type" in config:
        config["algorithm_type"] = config["algorithm_type"].removeprefix("sde-")
    return {"clip_sample": False} | config


def _deterministic_step(
    scheduler: Any, prediction: torch.Tensor, timestep: int, sample: torch.Tensor, noise: Callable[[], torch.Tensor]
) -> torch.Tensor:
    mean_only = prediction[:, : sample.shape[1]]  # a learned variance, if there is one, plays no part
    stepped: torch.Tensor = scheduler.step(mean_only, timestep, sample).prev_sample
    return stepped


def _ancestral_step(
    scheduler: Any, prediction: torch.Tensor, timestep: int, sample: torch.Tensor, noise: Callable[[], torch.Tensor]
) -> torch.Tensor:
    """The DDPM posterior's mean (Ho et al. 2020, equation 7) plus our own noise.

    DDPMScheduler draws its noise inside ``step``, from a torch generator; its clean-image estimate and its variance are
    used, the draw is not.
    """
    import torch

    idle = torch.Generator(sample.device).manual_seed(0)  # spares torch's global generator the draw that is dropped
    clean = scheduler.step(prediction, timestep, sample, generator=idle).pred_original_sample
    before = scheduler.previous_timestep(timestep)
    kept = scheduler.alphas_cumprod[timestep]
    kept_before = scheduler.alphas_cumprod[before] if before >= 0 else scheduler.one
    alpha = kept / kept_before
    mean = (kept_before**0.5 * (1 - alpha) * clean + alpha**0.5 * (1 - kept_before) * sample) / (1 - kept)
    if timestep == 0:
        return mean
    return mean + _standard_deviation(scheduler, prediction, timestep, sample.shape[1]) * noise()


def _standard_deviation(scheduler: Any, prediction: torch.Tensor, timestep: int, channels: int) -> torch.Tensor:
    """The posterior's standard deviation; diffusers keeps the variance, its logarithm or its root by variance type."""
    learned = prediction[:, channels:] if prediction.shape[1] > channels else None
    value: torch.Tensor = scheduler._get_variance(timestep, predicted_variance=learned)
    match scheduler.config.variance_type:
        case "fixed_small_log":
            return value
        case "fixed_large_log" | "learned_range":
            return (0.5 * value).exp()
        case _:
            return value**0.5


SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler("DDIMScheduler", _deterministic_step),
    "ddpm": Sampler("DDPMScheduler", _ancestral_step),
    "dpm-solver": Sampler("DPMSolverMultistepScheduler", _deterministic_step),
    "unipc": Sampler("UniPCMultistepScheduler", _deterministic_step),
}
