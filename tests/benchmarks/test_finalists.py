"""What the benchmarks of plans and widths make of what they measured."""

from __future__ import annotations

from benchmarks.finalists import NOTED, regrets
from benchmarks.widths import STEP, WIDEST, one_level
from toolkit.pruning.latency_cost import UNITS, fit, rows_of


def test_the_regret_of_a_way_to_choose_is_what_its_plan_ends_worse() -> None:
    def plan(seed: int, retained: float, losses: list[float], recovered: float) -> dict:
        noted = {str(step): loss for step, loss in zip((0, *NOTED), losses, strict=True)}
        return {"target": "macs<=0.6", "seed": seed, "retained": retained, "losses": noted, "recovered": recovered}

    early, late = [1.0, 1.0, 3.0, 3.0, 3.0], [2.0, 2.0, 1.0, 1.0, 1.0]
    rows = [plan(0, 0.9, early, 1.1), plan(0, 0.8, late, 1.0), plan(1, 0.9, early, 1.0), plan(1, 0.8, late, 1.2)]
    first, second = regrets(rows)
    steps = [f"{step} steps" for step in (0, *NOTED[:-1])]
    assert first == "macs<=0.6, seed 0, 2 plans: " + ", ".join(
        f"{way} {worse}"
        for way, worse in zip([*steps, "retained"], ["10.00%"] * 2 + ["0.00%"] * 2 + ["10.00%"], strict=True)
    )
    assert f"{steps[0]} 0.00%" in second and f"{steps[-1]} 20.00%" in second


def test_every_width_of_the_probe_is_stock_and_its_steps_tell_the_unit() -> None:
    prunable = one_level(8)
    assert [values[0] for values in prunable.space] == list(range(STEP, WIDEST + 1, STEP))
    assert prunable.space.configure((STEP,))["block_out_channels"] == [STEP]
    for unit in (16, 32, 64):
        padded = {values: -(-values[0] // unit) * unit for values in prunable.space}
        fractions = {values: (1 + width**2) / (1 + WIDEST**2) for values, width in padded.items()}
        misfits = {other: fit(rows_of(prunable.space, other), fractions)[1] for other in UNITS}
        assert min(misfits, key=misfits.__getitem__) == unit
