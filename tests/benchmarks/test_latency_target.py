"""The rivals of a target in latency are those that land nearest it, by what was measured."""

from __future__ import annotations

import pytest

from benchmarks.latency_target import rivals
from tests.pruning.cases import count
from tests.pruning.machines import Machine, two_levels
from toolkit.pruning.latency_cost import LatencyCost
from toolkit.pruning.solver import solve
from toolkit.pruning.targets import parse_target


@pytest.mark.slow
def test_each_rival_lands_as_near_the_goal_as_its_figure_can() -> None:
    space = two_levels()
    machine = Machine(space)
    found = rivals(space, count, LatencyCost(space, machine), goal=0.6)
    assert found.pop("latency") == "latency=0.6"
    assert {figure: target.partition("=")[0] for figure, target in found.items()} == {"macs": "macs", "width": "width"}
    reached = {}
    for figure, target in found.items():
        values = solve(space, parse_target(target), count).uniform
        reached[figure] = machine.latency(space.configure(values)) / machine.latency(space.dense)
    widths = [value / space.variables[0].dense for value in space.variables[0].choices]
    uniform = [solve(space, parse_target(f"width={width}"), count).uniform for width in widths]
    all_widths = [machine.latency(space.configure(values)) / machine.latency(space.dense) for values in uniform]
    assert abs(reached["width"] - 0.6) == min(abs(fraction - 0.6) for fraction in all_widths)
    assert abs(reached["macs"] - 0.6) < 0.1
