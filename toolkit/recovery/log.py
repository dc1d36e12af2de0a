"""The log of a training: what each step lost, and how fast it went."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from toolkit.core.files import write_failed, write_text


class Log:
    """log.jsonl: one line every ``every`` steps; lines past the step that training resumes at are dropped.

    ``track`` gets the values of each line and its step.
    """

    def __init__(self, path: Path, every: int, resumed_at: int, track: Callable[..., None]) -> None:
        self.path, self.every, self._since = path, every, (time.monotonic(), resumed_at)
        self._track = track
        old = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        write_text(path, "".join(f"{line}\n" for line in old if _step_of(line) <= resumed_at))

    def __call__(self, step: int, batch_size: int, losses: Mapping[str, float], rate: float) -> None:
        if step % self.every:
            return
        now = time.monotonic()
        images_per_s = batch_size * (step - self._since[1]) / max(now - self._since[0], 1e-9)
        self._since = (now, step)
        values = {**losses, "learning_rate": rate, "images_per_s": round(images_per_s, 2)}
        try:
            with self.path.open("a", encoding="utf-8") as log:
                log.write(json.dumps({"step": step, **values}) + "\n")
        except OSError as error:
            raise write_failed(self.path, error) from error
        self._track(values, step=step)


def _step_of(line: str) -> float:
    """The step of a line; infinite for a half one, so that it is dropped."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
