"""What does a server add to an image, and what does batching across requests win?

    python benchmarks/serving.py RUN --environment .venv-server

RUN has an export stage; it is handed off with and without dynamic batching, into a folder that is removed again. The
overhead is that of one client's requests of eight images over the same code called in this process, taken interleaved;
the throughput is that of many clients with one image a request.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.http as triton

from toolkit.core.environment import machine, versions
from toolkit.core.files import read_json, write_json
from toolkit.core.noise import sample_noise
from toolkit.core.run_folder import RunFolder
from toolkit.handoff.dtk_server.serving import Service
from toolkit.handoff.repository import REPOSITORY, VERSION
from toolkit.handoff.server import Server, running
from toolkit.handoff.settings import HandoffSettings, ServeSettings
from toolkit.pipeline.handoff import handoff

BATCH, STEPS, PAIRS = 8, 20, 30
CLIENTS, REQUESTS = 16, 160


def main() -> None:
    options = arguments()
    results: dict[str, Any] = {"machine": machine(), "versions": versions(), "batch": BATCH, "steps": STEPS}
    with served(options, dynamic_batching=True) as (server, version):
        results["overhead"] = overhead(server, version)
        results["images_per_s_batched"] = throughput(server)
    with served(options, dynamic_batching=False) as (server, _):
        results["images_per_s_unbatched"] = throughput(server)
    results["batching_gain"] = results["images_per_s_batched"] / results["images_per_s_unbatched"]
    write_json(options.output, results)
    print(options.output.read_text())


@contextlib.contextmanager
def served(options: argparse.Namespace, dynamic_batching: bool) -> Iterator[tuple[Server, Path]]:
    with tempfile.TemporaryDirectory() as place:
        run = RunFolder(Path(shutil.copytree(options.run, Path(place) / "run")))
        settings = HandoffSettings(dynamic_batching=dynamic_batching, max_batch=BATCH, max_steps=STEPS)
        handoff(run, settings)
        listening = ServeSettings(http_port=0, grpc_port=0, metrics_port=0, environment=options.environment)
        repository = run.path / "handoff" / REPOSITORY
        with running(repository, listening, Path(place) / "serve.log") as server:
            yield server, repository / settings.name / VERSION


def overhead(server: Server, version: Path) -> dict[str, float]:
    """Medians of a request of ``BATCH`` images and of the same call in this process, interleaved after warming up."""
    stored = read_json(version / "handoff.json")
    service = Service(version, stored, sample_noise, device="cpu", device_id=0, threads=1)
    client = triton.InferenceServerClient(server.http, network_timeout=300)
    seeds = np.arange(BATCH, dtype=np.uint64)[:, None]
    calls: dict[str, Callable[[], object]] = {
        "direct_ms": lambda: service.sample(service.read({"SEED": seeds})),
        "served_ms": lambda: ask(client, seeds),
    }
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(PAIRS + 3):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            taken[name].append(1000 * (time.perf_counter() - started))
    medians = {name: statistics.median(values[3:]) for name, values in taken.items()}
    return medians | {"overhead": medians["served_ms"] / medians["direct_ms"] - 1}


def throughput(server: Server) -> float:
    """Images a second of ``CLIENTS`` clients that ask for one image at a time."""

    def one(number: int) -> None:
        client = triton.InferenceServerClient(server.http, connection_timeout=300, network_timeout=300)
        ask(client, np.full((1, 1), number, np.uint64))
        client.close()

    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(one, range(CLIENTS)))
        started = time.perf_counter()
        list(pool.map(one, range(REQUESTS)))
    return REQUESTS / (time.perf_counter() - started)


def ask(client: triton.InferenceServerClient, seeds: np.ndarray) -> np.ndarray:
    column = triton.InferInput("SEED", list(seeds.shape), "UINT64")
    column.set_data_from_numpy(seeds)
    images: np.ndarray = client.infer("sampler", [column], outputs=[triton.InferRequestedOutput("IMAGE")]).as_numpy(
        "IMAGE"
    )
    return images


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--environment", type=Path, default=None)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results" / "serving.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
