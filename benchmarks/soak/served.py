"""Is every answer of a server that is killed and started again the right one, or an error?

A run is served by `dtk serve`; every image is known from asking for it alone. Then clients ask at once
while the whole server is killed (kill -9) at seeded random moments and started again; then one client asks for ten
thousand images at once, more than may wait, while others have sent half a request and stay silent.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as grpc
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

from benchmarks.soak.stage import start
from toolkit.core.noise import generator

CLIENTS, SEEDS, STEPS, SIZES = 16, 24, (1, 2, 4), 3
EVERY_S = 6.0  # a kill comes at a moment within so many seconds from when the server was ready
SILENT, AT_ONCE = 50, 10_000
LEVEL = 1 / 255
Known = dict[tuple[int, int], np.ndarray]


class Serving:
    """`dtk serve` in a forked process on free ports, started again at the same ones."""

    def __init__(self, run: Path, work: Path, environment: Path | None) -> None:
        self._place, self._said, self._words = run.parent, run.parent.parent / "served.txt", ["serve", str(run)]
        self._words += ["--environment", str(environment)] if environment else []
        with socket.socket() as one, socket.socket() as two, socket.socket() as three:
            for probe in (one, two, three):
                probe.bind(("127.0.0.1", 0))
            self.http, self.grpc, metrics = (probe.getsockname()[1] for probe in (one, two, three))
        self._words += ["--http-port", str(self.http), "--grpc-port", str(self.grpc), "--metrics-port", str(metrics)]
        self.ready = threading.Event()
        self.begin()

    def begin(self) -> None:
        self._said.write_text("")
        self.process = start(self._place, self._words, self._said)
        while self.process.exitcode is None and "Serving on" not in self._said.read_text(errors="replace"):
            time.sleep(0.05)
        if self.process.exitcode is not None:
            raise RuntimeError(self._said.read_text(errors="replace")[-2000:])
        self.ready.set()

    def kill(self) -> None:
        self.ready.clear()
        self.process.kill()
        self.process.join()


def request(module: Any, seeds: np.ndarray, steps: np.ndarray) -> list[Any]:
    """The inputs of a request for an image of each seed, in as many steps each."""
    inputs = []
    for name, values, dtype in (
        ("SEED", seeds.astype(np.uint64), "UINT64"),
        ("STEPS", steps.astype(np.int32), "INT32"),
    ):
        inputs.append(module.InferInput(name, [len(values), 1], dtype))
        inputs[-1].set_data_from_numpy(values[:, None])
    return inputs


class Check:
    """Counts answers, errors and what else came; how far answers are from the images asked for alone."""

    def __init__(self, known: Known) -> None:
        self.known, self.counts, self.apart = known, Counter[str](), 0.0
        self.errors, self._lock = Counter[str](), threading.Lock()

    def answer(self, images: np.ndarray, seeds: np.ndarray, steps: np.ndarray) -> None:
        wanted = np.stack([self.known[int(seed), int(count)] for seed, count in zip(seeds, steps, strict=True)])
        apart = float(np.abs(images - wanted).max()) if images.shape == wanted.shape else np.inf
        with self._lock:
            self.counts["answered" if apart <= LEVEL else "wrong"] += 1
            self.counts["bit_equal"] += bool(apart == 0)
            self.apart = max(self.apart, apart)

    def error(self, error: BaseException) -> None:
        with self._lock:
            self.counts["errors"] += 1
            self.errors[re.sub(r"\d+", "N", f"{type(error).__name__}: {error}")[:120]] += 1

    def value(self) -> dict[str, Any]:
        counts = {name: self.counts[name] for name in ("answered", "bit_equal", "errors", "wrong")}
        return counts | {"farthest": self.apart, "kinds_of_error": dict(self.errors.most_common(8))}


def known_images(port: int) -> Known:
    client = http.InferenceServerClient(f"127.0.0.1:{port}", network_timeout=300)
    pairs = [(seed, count) for seed in range(SEEDS) for count in STEPS]
    asked = {pair: request(http, *(np.array([value]) for value in pair)) for pair in pairs}
    return {pair: client.infer("sampler", inputs).as_numpy("IMAGE")[0] for pair, inputs in asked.items()}


def ask(serving: Serving, check: Check, numbers: range) -> None:
    """A client that asks for 1 to ``SIZES`` images each time; after an error it waits for the server."""
    for number in numbers:
        draw = generator("soak requests", 0, number)
        seeds, steps = (draw.choice(values, 1 + number % SIZES) for values in (SEEDS, STEPS))
        try:
            client = http.InferenceServerClient(f"127.0.0.1:{serving.http}", connection_timeout=60, network_timeout=60)
            check.answer(client.infer("sampler", request(http, seeds, steps)).as_numpy("IMAGE"), seeds, steps)
            client.close()
        except Exception as error:  # of the client's library, of the socket's, of what cannot be parsed
            check.error(error)
            serving.ready.wait(120)


def among_kills(serving: Serving, known: Known, requests: int) -> dict[str, Any]:
    check, draw, kills = Check(known), generator("soak kills", 0), 0
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(ask, serving, check, range(n, requests, CLIENTS)) for n in range(CLIENTS)]
        while not all(client.done() for client in clients):
            time.sleep(float(draw.uniform(0, EVERY_S)))
            if not all(client.done() for client in clients):
                serving.kill()
                serving.begin()
                kills += 1
    for client in clients:
        client.result()
    return {"requests": requests, "clients": CLIENTS, "kills": kills} | check.value()


def at_once(serving: Serving, known: Known) -> dict[str, Any]:
    """Ten thousand requests by one client without waiting, beside silent ones."""
    silent = [socket.create_connection(("127.0.0.1", serving.http)) for _ in range(SILENT)]
    for half in silent:
        half.sendall(b"POST /v2/models/sampler/infer HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{")
    check, left = Check(known), threading.Semaphore(0)
    client = grpc.InferenceServerClient(f"127.0.0.1:{serving.grpc}")
    for number in range(AT_ONCE):
        seeds, steps = np.array([number % SEEDS]), np.array([STEPS[number % len(STEPS)]])

        def told(result: Any, error: InferenceServerException | None, seeds: Any = seeds, steps: Any = steps) -> None:
            check.error(error) if error else check.answer(result.as_numpy("IMAGE"), seeds, steps)
            left.release()

        client.async_infer("sampler", request(grpc, seeds, steps), told)
    came = sum(left.acquire(timeout=120) for _ in range(AT_ONCE))
    after = Check(known)
    ask(serving, after, range(20))
    for half in silent:
        half.close()
    return {"requests": AT_ONCE, "came_back": came, "answered_afterwards": after.counts["answered"]} | check.value()


def soak(run: Path, work: Path, environment: Path | None, requests: int) -> dict[str, Any]:
    """Serve RUN, kill it among ``requests``, then flood it; what came of both, and what was wrong."""
    serving = Serving(run, work, environment)
    try:
        known = known_images(serving.http)
        killed = among_kills(serving, known, requests)
        flood = at_once(serving, known)
    finally:
        serving.process.terminate()
        serving.process.join()
    problems = [f"{part['wrong']} wrong answers" for part in (killed, flood) if part["wrong"]]
    problems += [] if flood["came_back"] == AT_ONCE else ["requests that were never answered"]
    problems += [] if flood["answered_afterwards"] == 20 else ["a flooded server that does not answer afterwards"]
    return {"killed": killed, "at_once": flood, "problems": problems}
