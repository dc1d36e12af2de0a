"""Does a server sample what dtk samples? ``python benchmarks/latent_served.py RUN --environment .venv-server``.

RUN is a handed-off run of a class-conditional latent model that was evaluated. A real tritonserver is started on it and
requested the first evaluated images by seed, class, guidance and steps; what it answers is compared with the pixels the
evaluation judged, in levels of 255. The figures go into ``--into``, a result of record.py, under "served".
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tritonclient.http as triton

from toolkit.core.files import read_json, write_json
from toolkit.evaluation.judging import sampling_settings
from toolkit.evaluation.sample_conditions import SampleConditions
from toolkit.evaluation.samples import sample_images
from toolkit.handoff.repository import REPOSITORY
from toolkit.handoff.server import running
from toolkit.handoff.settings import ServeSettings
from toolkit.models.conditioning import find_conditioning
from toolkit.pipeline.job import open_job

TYPES = {"SEED": np.uint64, "STEPS": np.int32, "CLASS": np.int64, "GUIDANCE": np.float32}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--environment", type=Path, required=True)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--into", type=Path)
    options = parser.parse_args()
    found = compare(options.run, options.environment, options.images)
    print(found)
    if options.into:
        write_json(options.into, read_json(options.into) | {"served": found})


def compare(run: Path, environment: Path, count: int) -> dict[str, float]:
    """The first samples of the compressed model, from the evaluation and from a server."""
    job = open_job(run)
    settings = job.recipe.evaluate
    if settings is None:
        raise SystemExit(f"{run} was not evaluated")
    conditions = SampleConditions(find_conditioning(job.dense), settings.seed, job.images[1])
    sampling = sampling_settings(settings)
    expected = sample_images(job.compressed, sampling, count, run / "cache", conditions=conditions)
    request: dict[str, Sequence[object]] = {
        "SEED": [settings.seed + number for number in range(count)],
        "STEPS": [settings.sampling_steps] * count,
        "CLASS": conditions(range(count)),
        "GUIDANCE": [settings.guidance] * count,
    }
    with tempfile.TemporaryDirectory() as place:
        listening = ServeSettings(http_port=0, grpc_port=0, metrics_port=0, environment=environment)
        with running(run / "handoff" / REPOSITORY, listening, Path(place) / "serve.log") as server:
            answered = ask(triton.InferenceServerClient(server.http, network_timeout=600), request)
    levels = np.abs(answered.transpose(0, 2, 3, 1) * 255 - expected)
    return {
        "images": count,
        "mean_difference_levels": float(levels.mean()),
        "max_difference_levels": float(levels.max()),
    }


def ask(client: triton.InferenceServerClient, request: Mapping[str, Sequence[object]]) -> np.ndarray:
    """Images float32 (N, C, H, W) in [0, 1]."""
    inputs = []
    for name, values in request.items():
        column = np.array(values, TYPES[name])[:, None]
        inputs.append(triton.InferInput(name, list(column.shape), triton.np_to_triton_dtype(column.dtype)))
        inputs[-1].set_data_from_numpy(column)
    answer = client.infer("sampler", inputs, outputs=[triton.InferRequestedOutput("IMAGE")])
    return np.asarray(answer.as_numpy("IMAGE"))


if __name__ == "__main__":
    main()
