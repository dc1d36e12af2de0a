"""Of the configurations that meet a target, the one whose pruned model is the best at once is taken."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from tests.pruning.cases import count
from tests.tiny import tiny_unet
from toolkit.adapters.base import Constraints
from toolkit.core.noise import generator
from toolkit.models.build import plain_config
from toolkit.pruning.choice import AS_GOOD, Choice, choose, padding
from toolkit.pruning.prunable import Prunable
from toolkit.pruning.scoring import Scored
from toolkit.pruning.selection import retained
from toolkit.pruning.solver import BEST, meet, solve
from toolkit.pruning.targets import parse_target

TARGET = parse_target("macs=0.6")


@pytest.fixture(scope="module")
def prunable() -> Prunable:
    config = plain_config(tiny_unet().config) | {
        "block_out_channels": (32, 64, 96),
        "norm_num_groups": 4,
        "attention_head_dim": 4,
    }
    kinds = {"down_block_types": ("DownBlock2D",) * 3, "up_block_types": ("UpBlock2D",) * 3}
    return Prunable("UNet2DModel", config | kinds, Constraints(align=4))


@pytest.fixture(scope="module")
def scored(prunable: Prunable) -> Scored:
    return Scored({n: generator(f"score {n}", 0).random(g.size) for n, g in prunable.layout.groups.items()}, {})


def chosen(
    prunable: Prunable, scored: Scored, loss: Callable[[Any], float] | None, by_scores: bool = True, unit: int = 1
) -> Choice:
    """The choice; a pruned model's place is taken by its values."""

    def build(values: Any, _: Any) -> Any:
        return values, 0.0

    return choose(prunable, TARGET, count, {0.0: scored}, build, loss, by_scores=by_scores, unit=unit)


@pytest.mark.slow
def test_finalists_are_the_most_even_and_those_that_retain_most(prunable: Prunable, scored: Scored) -> None:
    share = {values: prunable.retained(scored.scores, values) for values in meet(prunable.space, TARGET, count)}
    finalists = solve(prunable.space, TARGET, count, share.__getitem__).finalists
    assert len(share) > 1 + BEST, "the case does not test what it says"
    assert finalists[0] == meet(prunable.space, TARGET, count)[0]
    assert set(finalists) == {finalists[0], *sorted(share, key=share.__getitem__)[-BEST:]}


def test_the_least_loss_wins_whichever_finalist_has_it(prunable: Prunable, scored: Scored) -> None:
    share = {values: prunable.retained(scored.scores, values) for values in meet(prunable.space, TARGET, count)}
    finalists = solve(prunable.space, TARGET, count, share.__getitem__).finalists
    for best in finalists:
        choice = chosen(prunable, scored, lambda model, best=best: float(model != best))  # type: ignore[misc]
        assert choice.values == best and choice.uniform == (best == finalists[0])
        assert choice.retained == share[best] and choice.one_shot_loss == 0


@pytest.mark.parametrize(("loss", "by_scores"), [(lambda _: 1.0, True), (lambda _: 1.0, False), (None, True)])
def test_where_nothing_is_better_the_most_even_is_taken(prunable: Prunable, scored: Scored, loss, by_scores) -> None:
    assert chosen(prunable, scored, loss, by_scores).uniform


@pytest.mark.slow
def test_of_those_as_good_the_one_that_suits_the_chip_is_taken(prunable: Prunable, scored: Scored) -> None:
    """Within AS_GOOD of the least loss the fewest padded channels, beyond it the loss."""
    share = partial(prunable.retained, scored.scores)
    finalists = solve(prunable.space, TARGET, count, share).finalists
    for unit in (4, 16, 32):
        padded = {values: padding(prunable.space, values, unit) for values in finalists}
        best = min(finalists, key=padded.__getitem__)
        for least in finalists:
            for factor, wanted in ((1 + AS_GOOD / 2, best), (1 + 2 * AS_GOOD, least)):
                loss = {values: 1.0 if values == least else factor for values in finalists}
                choice = chosen(prunable, scored, loss.__getitem__, unit=unit)
                assert padded[choice.values] == padded[wanted]
    assert len(set(padded.values())) > 1, "the case does not test what it says"


def test_two_hundredths_of_the_loss_are_more_than_what_suits_the_chip(prunable: Prunable, scored: Scored) -> None:
    finalists = solve(prunable.space, TARGET, count, partial(prunable.retained, scored.scores)).finalists
    padded = {values: padding(prunable.space, values, 32) for values in finalists}
    worst = max(finalists, key=padded.__getitem__)
    assert min(padded.values()) < padded[worst], "the case does not test what it says"
    assert chosen(prunable, scored, lambda model: 1.0 if model == worst else 1.02, unit=32).values == worst


def test_padding_is_the_share_that_is_computed_for_nothing() -> None:
    config = plain_config(tiny_unet(block_out_channels=(64, 128, 128)).config)
    space = Prunable("UNet2DModel", config, Constraints()).space
    widths = {(64, 128): 0, (48, 96): 0, (24, 64): 8 / 96, (40, 72): (8 + 8) / 128}
    assert {values: padding(space, values, 16) for values in widths} == pytest.approx(widths)
    whole = Prunable("UNet2DModel", config, Constraints(groups="whole")).space
    assert padding(whole, (3,), 16) == 0, "a number of norm groups is no width"


def test_keeping_more_never_retains_less() -> None:
    draw = generator("retained", 0)
    scores = {name: draw.random(size) for name, size in (("a", 8), ("b", 12), ("c", 4))}
    kept = {name: np.arange(0) for name in scores}
    shares = [retained(scores, kept)]
    for name in scores:
        for end in range(1, len(scores[name]) + 1):
            kept = kept | {name: np.arange(end)}
            shares.append(retained(scores, kept))
    assert shares == sorted(shares) and (shares[0], shares[-1]) == (0.0, pytest.approx(1.0))
