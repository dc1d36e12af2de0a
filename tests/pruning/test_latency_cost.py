"""Targets in latency are met by what was measured, with few measurements, or refused in words. No clock is read."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from tests.pruning.cases import count
from tests.pruning.machines import Machine, Timed, two_levels
from tests.tiny import tiny_unet
from toolkit.adapters.base import Constraints
from toolkit.adapters.space import Config, Space
from toolkit.adapters.unet import width_space
from toolkit.core.errors import DtkError, UsageError
from toolkit.core.noise import generator
from toolkit.models.build import plain_config
from toolkit.pruning.cost import Cost
from toolkit.pruning.latency_cost import MOST_FINALISTS, UNITS, LatencyCost, design
from toolkit.pruning.prunable import Prunable
from toolkit.pruning.solver import BEST, solve
from toolkit.pruning.targets import parse_target


def four_levels() -> Space:
    """The widths of LDM-4: thousands of configurations."""
    config = {"block_out_channels": (192, 384, 576, 960), "time_embedding_dim": None, "freq_shift": 0}
    return width_space(config, Constraints(align=32), [1] * 4, 32)


def coarse() -> dict:
    """A model whose 32 norm groups leave few widths."""
    return plain_config(tiny_unet(block_out_channels=(64, 128, 128), norm_num_groups=32, attention_head_dim=32).config)


SPACES = {"two levels": two_levels, "four levels": four_levels}


def no_count(config: Config) -> Cost:
    raise AssertionError("a target in latency counts nothing")


def score(space: Space) -> Callable[[tuple[int, ...]], float]:
    """Keeping the first level pays most."""
    weights = np.arange(len(space.variables), 0, -1)
    return lambda values: float(weights @ np.array(values) / (weights @ np.array(space.dense_values)))


@pytest.mark.parametrize("goal", [0.45, 0.6, 0.8])
@pytest.mark.parametrize("jitter", [0.0, 0.01])
@pytest.mark.parametrize("name", SPACES)
def test_a_target_is_met_by_what_was_measured_and_few_are_measured(name: str, jitter: float, goal: float) -> None:
    space = SPACES[name]()
    machine = Machine(space, jitter)
    cost = LatencyCost(space, machine)
    found = solve(space, parse_target(f"latency={goal}"), no_count, score(space), cost)
    assert len(found.finalists) <= 1 + BEST
    for values in found.finalists:
        assert values in cost.timings
        assert cost.timings[values].fraction == pytest.approx(goal, rel=0.05)
        true = machine.latency(space.configure(values)) / machine.latency(space.dense)
        assert true == pytest.approx(goal, rel=0.05 + 3 * jitter)
    best = max(found.finalists, key=score(space))
    unmeasured = [v for v in space if cost.fraction(v) == pytest.approx(goal, rel=0.02)]
    assert all(score(space)(best) >= score(space)(values) for values in unmeasured)
    assert machine.measured == len(cost.timings) <= 30


@pytest.mark.parametrize("goal", [0.5, 0.6, 0.8])
@pytest.mark.parametrize("name", SPACES)
def test_an_upper_bound_takes_what_retains_most_under_it(name: str, goal: float) -> None:
    space = SPACES[name]()
    machine = Machine(space)
    cost = LatencyCost(space, machine)
    found = solve(space, parse_target(f"latency<={goal}"), no_count, score(space), cost)
    assert all(cost.timings[values].fraction <= goal for values in found.finalists)
    best = max(found.finalists, key=score(space))
    under = [v for v in space if machine.latency(space.configure(v)) <= 0.98 * goal * machine.latency(space.dense)]
    assert score(space)(best) >= 0.98 * max(map(score(space), under))
    assert machine.measured == len(cost.timings) <= 45


def test_a_bound_is_met_where_nothing_lies_near_it() -> None:
    space = Prunable("UNet2DModel", coarse(), Constraints(align=32)).space
    machine = Machine(space)
    with pytest.raises(DtkError, match=r"latency within 5% of 6 ms[\s\S]*nearest below latency=0\.[345]"):
        solve(space, parse_target("latency=0.6"), no_count, None, LatencyCost(space, machine))
    cost = LatencyCost(space, machine)
    values = solve(space, parse_target("latency<=0.6"), no_count, None, cost).uniform
    assert values in cost.timings and cost.fraction(values) <= 0.6


@pytest.mark.slow
def test_bounds_on_latency_and_size_go_together() -> None:
    space = two_levels()
    machine, target = Machine(space), parse_target("latency<=0.8,params<=0.5")
    cost = LatencyCost(space, machine)
    found = solve(space, target, partial(count, class_name="UNet2DModel"), score(space), cost)
    dense = count(space.dense)
    for values in found.finalists:
        assert values in cost.timings and cost.timings[values].fraction <= 0.8
        assert count(space.configure(values)).params <= 0.5 * dense.params
    with pytest.raises(
        DtkError, match=r"latency<=0\.5 and params=0\.9 contradict each other[\s\S]*nearest latency is 0\."
    ):
        solve(space, parse_target("latency<=0.5,params=0.9"), count, None, cost)


def test_the_design_determines_the_polynomial_and_repeats_nothing() -> None:
    for space in (two_levels(), four_levels()):
        chosen, count = design(space), len(space.variables)
        assert len(set(chosen)) == len(chosen) == (count + 1) * (count + 2) // 2 + 1
        assert space.dense_values not in chosen


def test_a_polynomial_machine_is_predicted_everywhere() -> None:
    """What a design must do: configurations that were never measured are predicted."""
    space = four_levels()
    machine = Machine(space)
    machine.latency = lambda config: float(1e5 + sum(config["block_out_channels"]) ** 2)  # type: ignore[method-assign]
    cost = LatencyCost(space, machine)
    dense = machine.latency(space.dense)
    for values in list(space)[::97]:
        assert cost.predicted(values) == pytest.approx(machine.latency(space.configure(values)) / dense, rel=1e-3)


@pytest.mark.parametrize("unit", UNITS)
def test_the_unit_that_widths_are_padded_to_is_told_by_what_was_measured(unit: int) -> None:
    """And all that was not measured is predicted, steps included: no channel is given away that costs nothing."""
    space = two_levels()
    machine = Machine(space, unit=unit)
    machine.latency = lambda config: polynomial(config, unit)  # type: ignore[method-assign]
    cost = LatencyCost(space, machine)
    dense = machine.latency(space.dense)
    assert cost.unit == unit
    for values in space:
        assert cost.predicted(values) == pytest.approx(machine.latency(space.configure(values)) / dense, rel=1e-3)
    taken = solve(space, parse_target("latency<=0.8"), no_count, score(space), cost).finalists
    free = [v for v in space if machine.latency(space.configure(v)) <= 0.8 * dense]
    assert not [(v, w) for v in taken for w in free if v != w and all(a <= b for a, b in zip(v, w, strict=True))]


def polynomial(config: Config, unit: int) -> float:
    widths = [-(-width // unit) * unit for width in config["block_out_channels"]]
    return float(1e4 + 50 * sum(widths) + sum(a * b for a, b in itertools.pairwise(widths)))


def test_milliseconds_are_of_the_dense_model_measured_beside() -> None:
    space = two_levels()
    cost = LatencyCost(space, Machine(space))
    assert cost(space.dense_values) == cost.dense_ms == 10.0
    found = solve(space, parse_target("latency=6.0ms"), no_count, None, cost)
    assert cost(found.uniform) == pytest.approx(6.0, rel=0.05)


def test_an_unreachable_latency_names_the_nearest_as_measured() -> None:
    space = two_levels()
    machine = Machine(space)
    cost = LatencyCost(space, machine)
    smallest = min(machine.latency(space.configure(values)) for values in space) / machine.latency(space.dense)
    with pytest.raises(DtkError, match=r"latency within 5% of 1 ms[\s\S]*nearest below none[\s\S]*--min-width") as told:
        solve(space, parse_target("latency=0.1"), no_count, None, cost)
    assert f"nearest above latency={smallest:.4f} ({10 * smallest:.3g} ms)" in str(told.value)


def test_noise_is_said_not_hidden() -> None:
    space = two_levels()
    noisy = LatencyCost(space, lambda config: Timed(Machine(space)(config).fraction, noise=0.08))
    with pytest.raises(DtkError, match=r"too noisy to meet a latency within 5%[\s\S]*as likely[\s\S]*larger --batch"):
        solve(space, parse_target("latency=0.6"), no_count, None, noisy)


@pytest.mark.slow
def test_a_machine_that_answers_anything_ends() -> None:
    space = four_levels()
    draw = generator("anything", 0)
    with pytest.raises(DtkError, match=r"do not settle|too noisy|No stock configuration"):
        cost = LatencyCost(space, lambda config: Timed(float(draw.uniform(0.9, 1.0))))
        cost._coefficients = np.zeros_like(cost._coefficients)
        cost._fit = lambda: None  # type: ignore[method-assign]
        cost._coefficients[0] = 0.5
        solve(space, parse_target("latency=0.5"), no_count, None, cost)
    assert len(cost.surprises) <= MOST_FINALISTS


def test_progress_counts_every_measurement() -> None:
    told: list[tuple[str, int, int]] = []
    space = two_levels()
    LatencyCost(space, Machine(space), lambda *progress: told.append(progress))
    count = len(design(space))
    assert told == [("latency table", done, count) for done in range(count + 1)]


@pytest.mark.parametrize(
    ("text", "value", "absolute"),
    [("latency=0.6", 0.6, False), ("latency=4.0ms", 4.0, True), ("latency=0.5s", 500.0, True), ("latency=1", 1, False)],
)
def test_latencies_are_fractions_or_times(text: str, value: float, absolute: bool) -> None:
    (target,) = parse_target(text).bounds
    assert (target.value, target.absolute) == (value, absolute)


@pytest.mark.parametrize(
    ("text", "words"),
    [("latency=4", "out of range[\\s\\S]*4.0ms"), ("latency=4M", "wrong unit"), ("macs=4ms", "wrong unit")],
)
def test_latencies_of_no_unit_or_a_wrong_one_are_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_target(text)


def test_without_a_runner_no_latency_can_be_aimed_at() -> None:
    with pytest.raises(DtkError, match="only be aimed at if one can be measured"):
        solve(two_levels(), parse_target("latency=0.6"), no_count)
