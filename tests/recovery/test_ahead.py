"""Batches made ahead: the same, in order, no more than a few early, and a fault where its batch is taken."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest
import torch

from toolkit.recovery.ahead import DEPTH, ahead

CPU = torch.device("cpu")
PARTS = [range(start, start + 2) for start in range(0, 20, 2)]


def test_batches_come_in_order_from_another_thread_and_not_too_early() -> None:
    made: list[range] = []
    threads: set[int] = set()

    def load(part: range) -> list[int]:
        made.append(part)
        threads.add(threading.get_ident())
        return list(part)

    for number, batch in enumerate(ahead(load, PARTS, CPU)):
        assert batch == list(PARTS[number])
        assert len(made) <= number + 1 + DEPTH
    assert made == PARTS and threading.get_ident() not in threads


def test_a_fault_is_raised_where_its_batch_is_taken() -> None:
    def load(part: range) -> int:
        if part.start == 4:
            raise ValueError("a damaged image")
        return part.start

    batches = ahead(load, PARTS, CPU)
    assert [next(batches), next(batches)] == [0, 2]
    with pytest.raises(ValueError, match="a damaged image"):
        next(batches)


def test_nothing_is_made_for_a_training_that_ended() -> None:
    made: list[range] = []
    with closing(ahead(made.append, PARTS, CPU)) as batches:
        next(batches)
    count = len(made)
    assert count <= 1 + DEPTH
    assert made == PARTS[:count]
