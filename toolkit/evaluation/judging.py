"""Who is judged by what, and the images and features all figures are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from toolkit.core.files import replacing, value_sha256
from toolkit.core.progress import Progress, silent
from toolkit.data.images import Images
from toolkit.evaluation.artefact import Artefact, SamplingSettings
from toolkit.evaluation.features import Extractor
from toolkit.evaluation.measurements import Setup
from toolkit.evaluation.sample_conditions import SampleConditions
from toolkit.evaluation.samples import sample_images
from toolkit.evaluation.settings import EvaluateSettings
from toolkit.models.conditioning import find_conditioning
from toolkit.models.folder import ModelFolder


@dataclass(frozen=True)
class Subjects:
    """The two models, the real images that judge them, and the features they are compared by."""

    dense: ModelFolder
    compressed: ModelFolder
    reference: Images
    train: Images | None
    extractor: Extractor

    @property
    def models(self) -> dict[str, ModelFolder]:
        return {"dense": self.dense, "compressed": self.compressed}

    def conditions(self, seed: int) -> SampleConditions:
        """The classes or captions that both models' samples are made for."""
        return SampleConditions(find_conditioning(self.dense), seed, self.reference)

    def hashes(self) -> dict[str, str]:
        """What an evaluation reads, for its record."""
        return {
            "dense": self.dense.sha256,
            "compressed": self.compressed.sha256,
            "reference": self.reference.fingerprint,
            "train": self.train.fingerprint if self.train else "",
            "extractor": f"{self.extractor.name} {self.extractor.sha256}",
        }


@dataclass(frozen=True)
class Resources:
    """Where shards and features are kept, what computes, and what shows progress.

    ``shared`` holds what several runs have in common: the dense model's samples, and features. None: ``cache``.
    """

    cache: Path
    device: str = "cpu"
    progress: Progress = silent
    shared: Path | None = None

    @property
    def common(self) -> Path:
        """Where features are kept; they depend on their images and on nothing of the run."""
        return self.shared or self.cache

    def samples(self, name: str) -> Path:
        """Where the samples of the model called ``name`` are kept."""
        return self.common if name == "dense" else self.cache


@dataclass(frozen=True)
class Judged:
    """Samples uint8 (N, H, W, C) of the dense and the compressed model, and features float32 (N, D) by name.

    The features are of the dense and the compressed model's samples, of the reference, and of the floor's images if
    there are any; ``floor`` says what those are, or why there are none.
    """

    samples: dict[str, np.ndarray]
    features: dict[str, np.ndarray]
    floor: str
    conditions: Setup


def sampling_settings(settings: EvaluateSettings) -> SamplingSettings:
    """The sampling settings of an evaluation."""
    return SamplingSettings(
        settings.sampler, settings.sampling_steps, settings.seed, settings.batch_size, settings.guidance
    )


def judge(subjects: Subjects, settings: EvaluateSettings, place: Resources) -> Judged:
    """Sample both models from the same noise and take the features of all images, equally many on every side."""
    count, extractor = settings.images, subjects.extractor
    real = subjects.reference.subset(range(count))  # first: a broken extractor shows before an hour of sampling
    features = {"reference": features_of(real, extractor, place)}
    samples = {}
    for name in subjects.models:
        samples[name] = samples_of(name, subjects, settings, place)
        features[name] = sample_features(samples[name], extractor, place, f"features of the {name} model's images")
    floor, what = floor_images(subjects.reference, subjects.train, count)
    if floor is not None:
        features["floor"] = features_of(floor, extractor, place, "features of the floor's images")
    return Judged(samples, features, what, Setup(count, extractor.name, extractor.sha256, real.fingerprint))


def samples_of(
    name: str, subjects: Subjects, settings: EvaluateSettings, place: Resources, artefact: Artefact | None = None
) -> np.ndarray:
    """Samples uint8 (N, H, W, C) of the model called ``name``, or of an artefact of it, all from the same noise."""
    return sample_images(
        subjects.models[name],
        sampling_settings(settings),
        settings.images,
        place.samples(name),
        artefact=artefact,
        conditions=subjects.conditions(settings.seed),
        device=place.device,
        progress=place.progress,
        work=f"sampling {artefact.name if artefact else f'the {name} model'}",
    )


def floor_images(reference: Images, train: Images | None, count: int) -> tuple[Images | None, str]:
    """``count`` further real images to compare with the first ``count`` of the reference, and what they are.

    A distance grows as its count falls, so the floor needs as many images per side as the figures it is compared with.
    They are the next ones of the reference; if it is too small, the training images, which are real and no others.
    """
    if len(reference) >= 2 * count:
        return reference.subset(range(count, 2 * count)), "another part of the reference"
    if train is not None and len(train) >= count:
        return train.subset(range(count)), "the training images, as the reference is too small for two parts"
    return None, f"no floor: it takes {2 * count} reference images and there are {len(reference)}"


def features_of(
    images: Images, extractor: Extractor, place: Resources, work: str = "features of real images"
) -> np.ndarray:
    """Features float32 (N, D) of all ``images``, computed once and kept."""

    def read() -> np.ndarray:
        return images.read_uint8(range(len(images)))

    return _kept(images.fingerprint, read, extractor, place, work)


def sample_features(samples: np.ndarray, extractor: Extractor, place: Resources, work: str) -> np.ndarray:
    """Features float32 (N, D) of ``samples``, uint8 (N, H, W, C), computed once and kept."""
    contents = hashlib.sha256(np.ascontiguousarray(samples).data).hexdigest()
    return _kept([list(samples.shape), contents], lambda: samples, extractor, place, work)


def _kept(
    images: object, read: Callable[[], np.ndarray], extractor: Extractor, place: Resources, work: str
) -> np.ndarray:
    """The features of what ``images`` stands for and ``read`` gives, from where they are kept or computed now."""
    key = value_sha256([extractor.name, extractor.sha256, images])
    path = place.common / "features" / f"{key[:16]}.npy"
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except (OSError, ValueError, EOFError):  # absent or damaged
        features = extractor(read(), place.progress, work)
    with replacing(path) as temporary:
        np.save(temporary, features, allow_pickle=False)
    return features
