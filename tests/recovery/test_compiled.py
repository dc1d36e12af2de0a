"""Compiled networks are trained only where their gradients are those of the networks themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import fx, nn

from toolkit.core.errors import DtkError
from toolkit.recovery.compiled import check_gradients

X = torch.linspace(-1, 1, 12).reshape(3, 4)


class Network(nn.Module):
    """Of our own: torch.compile passes a bare nn.Sequential over."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(nn.functional.silu(self.first(x)))


def network() -> Network:
    torch.manual_seed(0)
    return Network()


def loses_the_first_layers(graph: fx.GraphModule, inputs: object) -> Callable[..., tuple[torch.Tensor, ...]]:
    """A backend whose code computes the right values, and their gradients from the last layer alone."""
    for node in graph.graph.nodes:
        if "silu" in str(node.target):
            with graph.graph.inserting_after(node):
                cut = graph.graph.call_method("detach", (node,))
            node.replace_all_uses_with(cut, delete_user_cb=lambda user, cut=cut: user is not cut)
    graph.recompile()
    return graph.forward


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_right_gradients_pass_and_are_gone(backend: str) -> None:
    asked, calls = network(), []
    asked.compile(backend=backend)
    check_gradients(asked, lambda: calls.append(asked(X).sum().backward()))
    assert len(calls) == 2
    assert all(parameter.grad is None for parameter in asked.parameters())


def test_lost_gradients_are_told() -> None:
    asked = network()
    asked.compile(backend=loses_the_first_layers)
    torch.testing.assert_close(asked(X), network()(X), msg="the values are right: only gradients show it")
    with pytest.raises(DtkError, match=r"other gradients[\s\S]*first.weight: \S+ apart[\s\S]*compile=false"):
        check_gradients(asked, lambda: asked(X).sum().backward())


def test_where_there_is_no_gradient_there_is_nothing_to_lose() -> None:
    """A student that is its teacher, as at ``width=1.0``."""
    asked = network()
    asked.compile(backend="eager")
    check_gradients(asked, lambda: (0 * asked(X)).sum().backward())


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_gradients_that_are_not_finite_are_told(value: float) -> None:
    asked, factors = network(), iter((1.0, value))
    with pytest.raises(DtkError, match="other gradients"):
        check_gradients(asked, lambda: (next(factors) * asked(X)).sum().backward())


def test_faint_gradients_may_be_rounding() -> None:
    """A shift before a softmax changes nothing: its gradient is rounding only."""

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.shift = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * self.scale + self.shift).softmax(-1)

    asked, sign = Shifted(), iter((1, -1))

    def backward() -> None:
        asked(X).square().sum().backward()
        asked.shift.grad += next(sign) * 1e-6

    check_gradients(asked, backward)
