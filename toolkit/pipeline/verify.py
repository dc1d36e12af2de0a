"""The verify stage: is the deployed artefact as good as the dense model, on this machine?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from toolkit.core.files import read_json, write_json
from toolkit.core.run_folder import Request, RunFolder
from toolkit.evaluation.artefact import Artefact
from toolkit.evaluation.judging import Resources, Subjects, features_of, sample_features, samples_of, sampling_settings
from toolkit.evaluation.noninferiority import ALPHA, decide, measure_excess
from toolkit.evaluation.settings import EvaluateSettings, VerifySettings

MOST_REAL = 10_000  # real images, of which more would cost time and decide little


def verify(
    run: RunFolder,
    settings: VerifySettings,
    sampling: EvaluateSettings,
    artefact: Artefact,
    subjects: Subjects,
    place: Resources,
) -> dict[str, Any]:
    """Test ``artefact`` of the compressed model against the dense one; write RUN/verify and return its verify.json.

    Both sample ``settings.images`` images from the same noise as ``sampling`` says, or as many as it says. Raises
    DtkError if the reference has fewer than three images.
    """
    images = settings.images or sampling.images
    sampling = sampling.model_copy(update={"images": images, "controls": False})
    subjects.reference.require(3, "verification (reference images, which were not trained on)")
    tested = settings.model_dump(mode="json") | {"artefact": artefact.name}
    request = Request(
        "verify",
        tested | {"sampling": sampling.model_dump(mode="json", exclude={"batch_size"})},
        subjects.hashes() | {"artefact": artefact.sha256 or "the model in torch"},
    )
    if not run.is_current(request):
        with run.writing(request, device=place.device) as folder:
            write_json(folder / "verify.json", _tested(settings, sampling, artefact, subjects, place))
    stored: dict[str, Any] = read_json(run.path / "verify" / "verify.json")
    return stored


def _tested(
    settings: VerifySettings, sampling: EvaluateSettings, artefact: Artefact, subjects: Subjects, place: Resources
) -> dict[str, Any]:
    extractor, reference = subjects.extractor, subjects.reference
    real = reference.subset(range(min(len(reference), MOST_REAL)))
    of_real = features_of(real, extractor, place)
    dense, made = (
        samples_of("dense", subjects, sampling, place),
        samples_of("compressed", subjects, sampling, place, artefact),
    )
    of_dense = sample_features(dense, extractor, place, "features of the dense model's images")
    of_made = sample_features(made, extractor, place, f"features of the images of {artefact.name}")
    excess = measure_excess(of_dense, of_made, of_real)
    return {
        "artefact": artefact.name,
        "loop": artefact.loop(sampling_settings(sampling)),
        "margin": settings.margin,
        "alpha": ALPHA,
        "power_requested": settings.power,
        "metric": f"KD ({extractor.name})",
        "pairs": sampling.images,
        "real": len(real),
        "excess": {"artefact": float(excess.values[0]), "dense": float(excess.values[1])},
        **asdict(decide(excess, settings.margin, power=settings.power)),
    }
