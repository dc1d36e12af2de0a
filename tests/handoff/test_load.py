"""Many clients at once on a real server: nothing lost, nothing mixed up, no memory kept."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import psutil
import pytest

from tests.handoff.asking import LEVEL, ask, client
from toolkit.core.noise import generator
from toolkit.handoff.server import Server

pytestmark = pytest.mark.slow

CLIENTS, REQUESTS, WARM = 64, 500, 100
SEEDS, STEPS = 12, (1, 2, 3, 5, 8)
GROWTH = 1.02


@dataclass(frozen=True)
class Order:
    """One request of the load: an image per seed, each with its own number of steps."""

    seeds: tuple[int, ...]
    steps: tuple[int, ...]


def orders() -> list[Order]:
    draw = generator("load", 0)
    sizes = draw.integers(1, 9, REQUESTS)
    return [
        Order(tuple(map(int, draw.integers(0, SEEDS, size))), tuple(map(int, draw.choice(STEPS, size))))
        for size in sizes
    ]


def resident(server: Server) -> int:
    """Resident bytes of the server and its backend processes."""
    process = psutil.Process(server.process.pid)
    return sum(each.memory_info().rss for each in [process, *process.children(recursive=True)])


def answer(server: Server, order: Order) -> np.ndarray:
    connection = client(server, connection_timeout=120, network_timeout=120)
    try:
        return ask(connection, order.seeds, order.steps)["IMAGE"]
    finally:
        connection.close()


def test_64_clients_get_each_their_own_images_and_memory_stays(server: Server) -> None:
    alone = {(seed, steps): ask(client(server), [seed], steps)["IMAGE"][0] for seed in range(SEEDS) for steps in STEPS}
    names, known = list(alone), np.stack(list(alone.values()))
    wanted = orders()
    with ThreadPoolExecutor(CLIENTS) as pool:
        answers = list(pool.map(lambda order: answer(server, order), wanted[:WARM]))
        before = resident(server)
        answers += list(pool.map(lambda order: answer(server, order), wanted[WARM:]))
    after = resident(server)
    assert len(answers) == REQUESTS
    for order, images in zip(wanted, answers, strict=True):
        assert len(images) == len(order.seeds)
        for image, name in zip(images, zip(order.seeds, order.steps, strict=True), strict=True):
            apart = np.abs(known - image).max(axis=(1, 2, 3))
            assert apart[names.index(name)] <= LEVEL
            assert names[int(apart.argmin())] == name
    assert after <= GROWTH * before, f"resident memory grew from {before} to {after} bytes"


def test_requests_were_batched_together(server: Server) -> None:
    statistics = client(server).get_inference_statistics("sampler")["model_stats"][0]
    assert statistics["execution_count"] < statistics["inference_stats"]["success"]["count"]
