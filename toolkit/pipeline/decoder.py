"""The decoder stage: prune an autoencoder's decoder, train it against the dense one, and write the stock autoencoder.

RUN/decoder has plan.json, result.json and autoencoder/, which takes the dense one's place in RUN/model; scores,
checkpoints and the log of the training are in RUN/cache/decoder.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn

from toolkit.adapters.inputs import input_specs
from toolkit.core.errors import DtkError
from toolkit.core.files import read_json, value_sha256, write_json
from toolkit.core.progress import Progress, silent
from toolkit.core.run_folder import Request, RunFolder
from toolkit.evaluation.decoded import DecoderJudge
from toolkit.evaluation.features import open_extractor
from toolkit.models.autoencoder import Autoencoder, AutoencoderFolder, find_autoencoder
from toolkit.models.decoder import ImageDecoder, decoder_config, decoder_of, with_decoder
from toolkit.models.folder import ModelFolder
from toolkit.models.latents import Latents
from toolkit.models.save import save_module
from toolkit.pipeline.decoder_settings import CONTINUED, DecoderSettings
from toolkit.pipeline.model import AUTOENCODER, STAGE
from toolkit.pipeline.training import train_up_to
from toolkit.pruning.calibration import Calibrations, DecoderCalibration, calibration_order
from toolkit.pruning.cost import Count, counter
from toolkit.pruning.prunable import Prunable
from toolkit.pruning.prune import Pruned, plan_by_width, prunable_for, prune
from toolkit.pruning.scores import find_or_score, scores_key
from toolkit.recovery.decoder import prepare_decoder


def dry_run(dense: ModelFolder, settings: DecoderSettings) -> dict[str, Any]:
    """The plan by width only. Raises DtkError for a model without a decoder that can be narrower."""
    prunable, count = _prunable(dense, settings)
    return plan_by_width(prunable, settings.pruning(), count)


def compress_decoder(
    run: RunFolder,
    settings: DecoderSettings,
    dense: ModelFolder,
    train: Latents,
    held_out: Latents,
    *,
    device: str = "cpu",
    progress: Progress = silent,
) -> dict[str, Any]:
    """Write RUN/decoder and return its result.json: the plan's facts, and the errors of held-out images.

    An interrupted or shorter training of the same settings resumes. Raises DtkError for a model without a decoder that
    can be narrower, or if there are too few images.
    """
    folder = _autoencoder(dense)
    inputs = {"autoencoder": folder.sha256, "images": train.fingerprint, "held_out": held_out.fingerprint}
    request = Request(STAGE, settings.model_dump(mode="json"), inputs)
    if not run.is_current(request):
        autoencoder = Autoencoder.load(folder, device)
        with run.writing(request, device=device) as target:
            pruned = _prune(run, settings, dense, autoencoder, train, inputs, progress)
            student, judge = pruned.model, DecoderJudge(autoencoder, _latent(dense), held_out)
            errors = {"dense": judge(None), "one_shot": judge(student)}
            result: dict[str, Any] = dict(pruned.plan.facts) | {"requested": settings.model_dump(mode="json")}
            if settings.steps:
                result |= _train(run, settings, dense, autoencoder, student, train, inputs, device, progress)
                errors["recovered"] = judge(student)
            pruned.plan.write(target / "plan.json")
            write_json(target / "result.json", result | {"errors": errors})
            save_module(with_decoder(autoencoder.module.cpu(), student.cpu()), target / AUTOENCODER)
    stored: dict[str, Any] = read_json(run.path / STAGE / "result.json")
    return stored


def _latent(dense: ModelFolder) -> tuple[int, int, int]:
    channels, height, width = dense.input_specs()["sample"].shape
    return channels, height, width


def _autoencoder(dense: ModelFolder) -> AutoencoderFolder:
    folder = find_autoencoder(dense)
    if folder is None:
        raise DtkError(
            f"{dense.root} has no decoder.",
            found="a model of pixels, or a denoiser alone",
            expected="a pipeline folder with an AutoencoderKL in vae/",
            do="leave out --decoder",
        )
    return folder


def _prunable(dense: ModelFolder, settings: DecoderSettings) -> tuple[Prunable, Count]:
    config = decoder_config(_autoencoder(dense), _latent(dense))
    name = ImageDecoder.__name__
    return prunable_for(name, config, settings.pruning()), counter(name, config, input_specs(name, config))


def _prune(
    run: RunFolder,
    settings: DecoderSettings,
    dense: ModelFolder,
    autoencoder: Autoencoder,
    train: Latents,
    inputs: dict[str, str],
    progress: Progress,
) -> Pruned:
    _, count = _prunable(dense, settings)
    pruning = settings.pruning()
    calibrations = _calibrations(autoencoder, train, settings)
    key, scores = scores_key(pruning, inputs), run.path / "cache" / STAGE / "scores.safetensors"
    scores.parent.mkdir(parents=True, exist_ok=True)
    score = partial(find_or_score, key=key, places=[scores])
    decoder = decoder_of(autoencoder, _latent(dense))
    return prune(decoder, None, pruning, count, calibrations, score=score, progress=progress)


def _calibrations(autoencoder: Autoencoder, train: Latents, settings: DecoderSettings) -> Calibrations:
    order, count = calibration_order(train, settings.pruning()), settings.calibration_images

    def calibration(indices: list[int]) -> DecoderCalibration:
        images, latents = (
            torch.from_numpy(kind.read(indices)).to(autoencoder.device) for kind in (train.images, train)
        )
        with torch.no_grad():
            return DecoderCalibration.of(images, autoencoder.before_decoder(latents))

    scored, held_out = calibration(order[:count]), calibration(order[count:])
    return Calibrations(scored, held_out, train.source, train.sha256, len(train.skipped))


def _train(
    run: RunFolder,
    settings: DecoderSettings,
    dense: ModelFolder,
    autoencoder: Autoencoder,
    student: nn.Module,
    train: Latents,
    inputs: dict[str, str],
    device: str,
    progress: Progress,
) -> dict[str, Any]:
    """Train ``student`` in place; the steps and the last losses."""
    if len(train) < settings.batch_size:
        raise DtkError(
            f"{train.source} has fewer images than a batch of the decoder's training.",
            found=f"{len(train)} training images, decoder.batch_size {settings.batch_size}",
            do="give more images, or a smaller decoder.batch_size",
        )
    train.prepare(progress)
    work, named = run.path / "cache" / STAGE, settings.features
    features = (open_extractor(named, device).load(), settings.feature_weight) if named else None
    teacher = decoder_of(autoencoder, _latent(dense))
    training, state = prepare_decoder(
        student, teacher, autoencoder.before_decoder, train, settings.training(), device, work, features
    )
    identity = value_sha256([settings.model_dump(mode="json", exclude={*CONTINUED}), inputs])
    train_up_to(training, state, work, identity, progress, "recovering the decoder")
    student.load_state_dict({**student.state_dict(), **state.average})
    student.eval().requires_grad_(False)
    return {"steps": state.step, "losses": state.losses}
