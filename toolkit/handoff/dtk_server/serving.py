"""What stands between a server's requests and the loop: limits, batches, the known image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from . import png
from .choice import Warn, open_graph, open_stepper
from .conditions import Conditions, labels
from .loop import Loop, SampleNoise
from .request import Conditioned, Limits, Wish, wishes
from .schedule import Schedule


class Service:
    """A model version that answers: ``read`` a request, ``sample`` what several of them ask for.

    ``warn`` is called if the manifest's second choice of runtime serves.
    """

    def __init__(
        self,
        version: Path,
        stored: dict[str, Any],
        noise: SampleNoise,
        *,
        device: str,
        device_id: int,
        threads: int,
        warn: Warn = lambda message: None,
    ) -> None:
        self.limits = Limits(**stored["limits"])
        place: dict[str, Any] = {"device": device, "device_id": device_id, "threads": threads}
        shape = tuple(stored["latent"] or stored["image"])
        stepper = open_stepper(version, stored["step_graph"], warn, image=shape, batch=self.limits.max_batch, **place)
        graphs: Any = partial(
            open_graph,
            version,
            step_graph=stored["step_graph"],
            warn=warn,
            batch=self.limits.max_batch,
            **place,
        )
        decode = _decoder(graphs, stored["decoder"]) if stored["decoder"] else None
        self._loop = Loop(stepper, Schedule.read(version / "schedule.json"), shape, noise, decode)
        self._known = stored["expected"].get("condition")
        self._conditioned: Conditioned = (
            Conditions(version, stored["conditioner"], graphs) if stored["conditioner"] else labels
        )

    def read(self, arrays: Mapping[str, np.ndarray | None]) -> list[Wish]:
        """The images a request asks for. Raises RefusedError."""
        return wishes(arrays, self.limits, self._conditioned)

    def sample(self, wishes: Sequence[Wish]) -> list[np.ndarray]:
        """One image per wish, float32 (C, H, W) in [0, 1], in batches of at most the limit."""
        size = self.limits.max_batch
        batches = [wishes[start : start + size] for start in range(0, len(wishes), size)]
        return [image for batch in batches for image in self._loop.sample(batch)]

    def known_image(self, seed: int, steps: int) -> np.ndarray:
        """The image a handoff is recognised by, of its condition at the default guidance: uint8 (C, H, W)."""
        scale = None if self.limits.max_guidance is None else self.limits.default_guidance
        (image,) = self.sample([Wish(seed, steps, self._conditioned(self._known, scale))])
        return png.to_uint8(image)


def _decoder(graphs: Any, stored: Mapping[str, Any]) -> Callable[[np.ndarray], np.ndarray]:
    graph = graphs(stored)
    return lambda latents: graph({"latents": latents})["images"]
