"""A run's figures as tables for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.table import Table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    return table


def plan(facts: dict[str, Any]) -> Iterator[Any]:
    """Asked and got, and the widths of the levels."""
    dense, got = facts["dense"], facts["got"]
    table = _table(f"Plan (asked: {facts['asked']['target']})", "", "dense", "compressed", "of dense")
    table.add_row("parameters", f"{dense['params']:,}", f"{got['params']:,}", f"{got['params_fraction']:.1%}")
    table.add_row("MACs", f"{dense['macs']:,}", f"{got['macs']:,}", f"{got['macs_fraction']:.1%}")
    for width in facts["widths"]:
        table.add_row(width["name"], str(width["dense"]), str(width["got"]), f"{width['got'] / width['dense']:.1%}")
    yield table
    yield f"chosen by {facts['chosen_by']}"


def recovery(result: dict[str, Any]) -> Iterator[Any]:
    """The last losses of recovery."""
    losses = ", ".join(f"{name} {value:.5f}" for name, value in result["losses"].items())
    yield f"Recovered in {result['steps']} steps: {losses}"


def evaluation(metrics: dict[str, Any]) -> Iterator[Any]:
    """Distances to real images, and how near the compressed model stays to the dense one."""
    raise NotImplementedError


def parity(exported: dict[str, Any]) -> Iterator[Any]:
    """How far each export is from torch."""
    raise NotImplementedError


def profile(figures: dict[str, Any]) -> Iterator[Any]:
    """Size, latency and what of the MACs ratio became speed."""
    raise NotImplementedError


STAGES = {"prune": plan, "recover": recovery, "evaluate": evaluation, "export": parity, "profile": profile}


def report(value: dict[str, Any]) -> Iterator[Any]:
    """Every finished stage's table."""
    for stage, found in value["stages"].items():
        yield from STAGES[stage](found)
