"""The runners of a profile: opened when first needed, called on inputs of a batch size, closed together."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from profiles.latency import Timed, clock_of
from toolkit.adapters.base import InputSpec
from toolkit.adapters.inputs import example_inputs
from toolkit.core.errors import DtkError, first_line
from toolkit.models.folder import ModelFolder
from toolkit.runners.base import Runner, RunnerSpec, open_runner, precision_of, precision_options

Source = ModelFolder | Path
Key = tuple[str, Source]
Sources = Callable[[RunnerSpec, str, int], Source]
"""What a runner reads of the model "dense" or "compressed" for a batch size."""


class OpenRunners:
    """The runners of both models on ``device``; ``dtype`` is the precision of one that names none and takes one."""

    def __init__(self, sources: Sources, specs: Mapping[str, InputSpec], device: str, dtype: str) -> None:
        self.sources, self.specs, self.device, self.dtype = sources, specs, device, dtype
        self._open: dict[Key, Runner] = {}
        self._open_s: dict[Key, float] = {}
        self._first_ms: dict[tuple[Key, int], float] = {}

    def precision(self, spec: RunnerSpec) -> str:
        """What ``spec`` computes in. Raises DtkError if its file is in another precision."""
        return precision_of(spec, self.sources(spec, "compressed", 1), self.dtype)

    def named(self, spec: RunnerSpec) -> str:
        """NAME:DTYPE of ``spec``, whether it names its precision or not."""
        return f"{spec.name}:{self.precision(spec)}"

    def options(self, spec: RunnerSpec) -> dict[str, Any]:
        """How ``spec`` is opened."""
        return precision_options(spec.name, self.precision(spec))

    def runner(self, spec: RunnerSpec, which: str, batch: int) -> Runner:
        """The runner of the model ``which``, opened now if it is not open."""
        key = self._key(spec, which, batch)
        if key not in self._open:
            started = time.perf_counter()
            self._open[key] = open_runner(spec.name, key[1], device=self.device, **self.options(spec))
            self._open_s[key] = time.perf_counter() - started
        return self._open[key]

    def timed(self, spec: RunnerSpec, which: str, batch: int) -> Timed:
        """A call at ``batch``; the very first one, which compiles and allocates, is done and timed here."""
        runner, first = self.runner(spec, which, batch), (self._key(spec, which, batch), batch)
        inputs = self.inputs(batch)
        if first not in self._first_ms:
            self._first_ms[first] = clock_of(self.device)(lambda: runner(**inputs))
        return Timed(lambda: runner(**inputs), batch)

    def _key(self, spec: RunnerSpec, which: str, batch: int) -> Key:
        return self.named(spec), self.sources(spec, which, batch)

    def inputs(self, batch: int) -> dict[str, torch.Tensor]:
        """The same inputs for every runner."""
        return example_inputs(dict(self.specs), batch, device=self.device)

    def start(self, spec: RunnerSpec, batch: int) -> dict[str, dict[str, float]]:
        """Of each model ``open_s``, what loading or building took, and ``first_call_ms`` at ``batch``."""
        keys = {which: self._key(spec, which, batch) for which in ("dense", "compressed")}
        return {
            "open_s": {which: self._open_s[key] for which, key in keys.items()},
            "first_call_ms": {which: self._first_ms[key, batch] for which, key in keys.items()},
        }

    def close(self, but: Collection[str] = ()) -> None:
        """Close all runners, but those of the specs named so."""
        for key in [key for key in self._open if key[0] not in but]:
            self._open.pop(key).close()
            self._first_ms = {first: ms for first, ms in self._first_ms.items() if first[0] != key}


@contextmanager
def faults_named(name: str, device: str, batch: int) -> Iterator[None]:
    """A fault of a runner while it is measured (memory that ran out, a device that is gone) as a DtkError."""
    try:
        yield
    except DtkError:
        raise
    except Exception as error:  # the runners' errors share no base class
        raise DtkError(
            f"The runner {name} failed on {device} while batch {batch} was measured.",
            found=first_line(error),
            do="leave out this batch size if memory ran out; `dtk doctor` tells whether the device still answers",
        ) from error
