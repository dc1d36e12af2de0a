"""An execution context of TensorRT with what is bound to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from toolkit.core.errors import DtkError

Feed = Mapping[str, torch.Tensor]


class Binding:
    """Shapes and addresses of one context: they are bound once, and again if they change.

    ``ranges``: of an engine with several optimisation profiles, the smallest and largest batch of each. ``batch`` is
    min:opt:max, for messages.
    """

    def __init__(self, context: Any, output: str, ranges: list[tuple[int, int]], batch: str, device: str) -> None:
        self.context, self.output = context, output
        self._ranges, self._batch, self._device = ranges, batch, device
        self._profile = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}

    def enqueue(self, feed: Feed, stream: Any) -> torch.Tensor:
        """Launch the engine on ``stream``; returns where the output, float32, will be."""
        self._choose_profile(len(next(iter(feed.values()))), stream)
        for name, tensor in feed.items():
            self._bind_shape(name, tuple(tensor.shape))
            self._bind_address(name, tensor)
        output = torch.empty(tuple(self.context.get_tensor_shape(self.output)), device=self._device)
        self._bind_address(self.output, output)
        if not self.context.execute_async_v3(stream.cuda_stream):
            raise DtkError("The engine could not be enqueued.")
        return output

    def _choose_profile(self, batch: int, stream: Any) -> None:
        """The first profile that takes the batch, if there are several."""
        fitting = [index for index, (least, most) in enumerate(self._ranges) if least <= batch <= most]
        if fitting and self._profile not in fitting:
            self._profile = fitting[0]
            self.context.set_optimization_profile_async(self._profile, stream.cuda_stream)
            self._shapes.clear()

    def _bind_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if self._shapes.get(name) != shape:
            if not self.context.set_input_shape(name, shape):
                raise DtkError(
                    f"The engine does not take a batch of {shape[0]}.", expected=f"{self._batch} (min:opt:max)"
                )
            self._shapes[name] = shape

    def _bind_address(self, name: str, tensor: torch.Tensor) -> None:
        if self._addresses.get(name) != tensor.data_ptr():
            self.context.set_tensor_address(name, tensor.data_ptr())
            self._addresses[name] = tensor.data_ptr()
