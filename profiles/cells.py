"""The cells of a profile: each is measured whole and kept as it comes, so that an interrupted profile resumes.

A cell is one runner in one precision at one batch size: dense and compressed in it, and the dense model as its user has
it without dtk, in turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from profiles.gpu_state import steadily
from profiles.latency import Timed, back_to_back, clock_of, compare_calls, enqueue_ms, interleave, warm_up
from profiles.loop import Loops, Taken
from profiles.memory import measure_memory
from profiles.opened import OpenRunners, faults_named
from profiles.settings import ProfileSettings
from profiles.speedup import summary
from profiles.table import Table
from toolkit.core.errors import DtkError, first_line
from toolkit.models.folder import ModelFolder
from toolkit.runners.base import RunnerSpec, known_runners, parse_runner, runner_reads, unavailable

Cell = dict[str, Any]
WHICH = ("dense", "compressed")


class Cells:
    """Measures cells into ``table``; ``done`` is called after each."""

    def __init__(
        self,
        runners: OpenRunners,
        model: ModelFolder,
        settings: ProfileSettings,
        taken: Mapping[str, Taken],
        table: Table,
        done: Callable[[], None],
        step_graph: Mapping[str, Any] | None = None,
    ) -> None:
        self.runners, self._settings, self._table, self._done = runners, settings, table, done
        self.loops = Loops(model, runners, settings, taken, step_graph) if settings.loop_steps else None

    def _kept(self, spec: str, batch: int, measure: Callable[[], Cell], **place: Any) -> Cell:
        """The cell at ``place``, measured if the table has none; one that was refused is not kept."""

        def measured() -> Cell:
            with faults_named(spec, self.runners.device, batch):
                return measure()

        place = {"runner": spec, "batch": batch, **place}
        cell = self._table.get(place, measured, is_worth_keeping=lambda cell: "refused" not in cell)
        self._done()
        return cell

    def baseline(self, dtype: str, batch: int) -> Cell:
        """``rows``: the dense model in every runner a user has without dtk, in turns; ``best``: the fastest of them.

        A row that cannot be measured says why. Raises DtkError if none can.
        """
        candidates = self._candidates(dtype)

        def measure() -> Cell:
            timed, rows = self._openable(candidates, batch)
            if not timed:
                raise DtkError("No dense baseline can be measured.", found="; ".join(map(str, rows.values())))
            calls = [one.call for one in timed.values()]
            warm_up(calls, self.runners.device)
            times_ms = interleave(calls, clock_of(self.runners.device), self._settings.rounds)
            rows |= {name: summary(times, batch) for name, times in zip(timed, times_ms, strict=True)}
            best = min(timed, key=lambda name: rows[name]["p50_ms"])
            return {"rows": {name: rows[name] for name in candidates}, "best": best}

        return self._kept(",".join(candidates), batch, lambda: steadily(measure, self.runners.device))

    def _candidates(self, dtype: str) -> list[str]:
        if self._settings.baseline != "auto":
            return [self.runners.named(parse_runner(self._settings.baseline))]
        names = [name for name in known_runners() if runner_reads(name) == "model"]
        return [f"{name}:{dtype}" for name in names if not unavailable(name, self.runners.device)]

    def _openable(self, candidates: Iterable[str], batch: int) -> tuple[dict[str, Timed], dict[str, Any]]:
        """Calls of the candidates that can be called, and of the others why not."""
        timed, rows = dict[str, Timed](), dict[str, Any]()
        for name in candidates:
            try:
                timed[name] = self.runners.timed(parse_runner(name), "dense", batch)
            except Exception as error:  # a baseline that fails is no reason to measure nothing
                if self._settings.baseline != "auto":
                    raise
                rows[name] = {"refused": first_line(error)}
        return timed, rows

    def latency(self, spec: RunnerSpec, batch: int, baseline: str) -> Cell:
        """Dense and compressed in ``spec``, and dense in ``baseline``: call times in turns, and in a row."""

        def measure() -> Cell:
            device = self.runners.device
            timed = {which: self.runners.timed(spec, which, batch) for which in WHICH}
            if self.runners.named(spec) != baseline:
                timed["baseline"] = self.runners.timed(parse_runner(baseline), "dense", batch)
            warm_up([one.call for one in timed.values()], device)
            cell = compare_calls(timed, device, self._settings.rounds)
            cell["back_to_back"] = back_to_back(timed, device, self._settings.rounds)
            if "baseline" not in timed:  # it is the dense model in this very runner
                cell |= {"baseline": cell["dense"], "over_baseline": cell["speedup"]}
            if device.startswith("cuda"):
                cell["enqueue_ms"] = {name: enqueue_ms(one.call, device) for name, one in timed.items()}
            return cell | {"baseline_runner": baseline} | self.runners.start(spec, batch)

        return self._kept(str(spec), batch, lambda: steadily(measure, self.runners.device), baseline=baseline)

    def loop(self, spec: RunnerSpec, batch: int) -> Cell | None:
        """The whole sampling loop in ``spec``; None if the settings leave it out."""
        loops = self.loops
        if loops is None:
            return None
        return self._kept(
            str(spec), batch, lambda: steadily(lambda: loops.measure(spec, batch), self.runners.device), loop=True
        )

    def memory(self, spec: RunnerSpec, batch: int) -> Cell:
        """Peak memory of both models in ``spec``, each in a process of its own."""
        runners = self.runners

        def measure() -> Cell:
            sources = {which: runners.sources(spec, which, batch) for which in WHICH}
            options = runners.options(spec)
            return measure_memory(
                spec.name, sources, dict(runners.specs), batch, device=runners.device, options=options
            )

        return self._kept(str(spec), batch, measure, memory=True)

    def gain(self, now: tuple[RunnerSpec, int], had: tuple[RunnerSpec, int]) -> Cell:
        """The best of the compressed model against the best dense baseline, each at its own batch size, in turns.

        Whole sampling loops if those are measured, else single calls. ``speedup`` is pruning's share: the dense model
        in the runner, precision and batch of ``now``.
        """
        timing = self.loops.timed if self.loops else self.runners.timed

        def measure() -> Cell:
            timed = {which: timing(now[0], which, now[1]) for which in WHICH}
            timed["baseline"] = timing(had[0], "dense", had[1])
            warm_up([one.call for one in timed.values()], self.runners.device)
            if self.loops:
                return self.loops.compare(timed)
            return compare_calls(timed, self.runners.device, self._settings.rounds)

        place = {"baseline": str(had[0]), "baseline_batch": had[1], "gain": True}
        return self._kept(str(now[0]), now[1], lambda: steadily(measure, self.runners.device), **place)
