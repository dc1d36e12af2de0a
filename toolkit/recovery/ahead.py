"""Batches made ahead of time: a thread reads the next one, on a stream of its own, while a step computes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields, is_dataclass
from itertools import islice
from typing import Any, TypeVar

import torch

T = TypeVar("T")
DEPTH = 2  # batches that wait: one hides how long a batch takes, the second that one takes longer than another


def ahead(load: Callable[[range], T], parts: Iterable[range], device: torch.device) -> Generator[T, None, None]:
    """``load(part)`` of each part in order, made by a thread up to ``DEPTH`` parts before it is taken.

    On a GPU it is made on a side stream, which the stream that takes it waits for: the host waits for neither. What
    ``load`` raises is raised where its batch is taken.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    waiting: deque[Future[tuple[T, Any]]] = deque()
    parts = iter(parts)
    with ThreadPoolExecutor(1, thread_name_prefix="batches") as thread:
        try:
            waiting.extend(thread.submit(_made, load, part, stream) for part in islice(parts, DEPTH))
            while waiting:
                batch, ready = waiting.popleft().result()
                waiting.extend(thread.submit(_made, load, part, stream) for part in islice(parts, 1))
                if ready is not None:
                    _take(batch, ready)
                yield batch
        finally:
            for future in waiting:
                future.cancel()


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on ``device``, through pinned memory if that is a GPU, so that the copy does not wait."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _made(load: Callable[[range], T], part: range, stream: Any) -> tuple[T, Any]:
    if stream is None:
        return load(part), None
    with torch.cuda.stream(stream):
        return load(part), stream.record_event()


def _take(batch: Any, ready: Any) -> None:
    """Let the current stream wait for the copy, and keep the memory until it has used it."""
    current = torch.cuda.current_stream()
    current.wait_event(ready)
    for field in fields(batch) if is_dataclass(batch) else ():
        value = getattr(batch, field.name)
        if isinstance(value, torch.Tensor):
            value.record_stream(current)
