"""Reconstruct after slicing: what a layer's dropped inputs said is said again by the ones that stay.

Each convolution and linear layer of the pruned model is fitted by ridge least squares so that its outputs change least
on calibration data (He, Zhang, Sun, "Channel pruning for accelerating very deep neural networks", ICCV 2017, equation
3). The ridge pulls to the sliced weights, not to zero: where the data say nothing, nothing changes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from diffusers import ModelMixin
from torch import nn

from toolkit.progress import Progress, silent
from toolkit.pruning.blocks import Rename, unchanged
from toolkit.pruning.layout import Layout
from toolkit.pruning.scoring import Calibration, prediction_at
from toolkit.pruning.surgery import Kept, indices

RIDGE = 1e-3  # of the mean eigenvalue of the inputs' second moments
Layer = nn.Conv2d | nn.Linear
Inputs = Literal["dense", "sliced"]


class NormalEquations:
    """Least squares of a layer's outputs on its inputs, streamed: holds sums of x x^T and of residual x^T alone."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        size = layer.weight[0].numel() + (layer.bias is not None)
        self._moments = torch.zeros(size, size, dtype=torch.float64, device=layer.weight.device)
        self._residuals = torch.zeros(len(layer.weight), size, dtype=torch.float64, device=layer.weight.device)

    def add(self, inputs: torch.Tensor, wanted: torch.Tensor) -> None:
        """Rows of data: ``inputs`` as the layer takes them, ``wanted`` the outputs it should give for them."""
        missing = wanted - self.layer(inputs)
        if isinstance(self.layer, nn.Conv2d):
            if isinstance(self.layer.padding, str) or self.layer.padding_mode != "zeros" or self.layer.groups != 1:
                raise NotImplementedError("a convolution with padding by name, of another mode, or of groups")
            shape = (self.layer.dilation, self.layer.padding, self.layer.stride)
            x = nn.functional.unfold(inputs, self.layer.kernel_size, *shape).transpose(1, 2).flatten(0, 1)
            y = missing.flatten(2).transpose(1, 2).flatten(0, 1)
        else:
            x, y = inputs.flatten(0, -2), missing.flatten(0, -2)
        if self.layer.bias is not None:
            x = nn.functional.pad(x, (0, 1), value=1.0)
        self._moments += (x.T @ x).double()
        self._residuals += (y.T @ x).double()

    @torch.no_grad()
    def solve(self, ridge: float = RIDGE) -> None:
        """Change the layer's weight and bias to the fit."""
        strength = ridge * self._moments.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
        identity = torch.eye(len(self._moments), dtype=torch.float64, device=self._moments.device)
        change = torch.linalg.solve(self._moments + strength * identity, self._residuals.T).T
        if self.layer.bias is not None:
            self.layer.bias += change[:, -1].to(self.layer.bias.dtype)
            change = change[:, :-1]
        self.layer.weight += change.reshape(self.layer.weight.shape).to(self.layer.weight.dtype)


def reconstruct(
    dense: ModelMixin,
    pruned: ModelMixin,
    layout: Layout,
    kept: Kept,
    calibration: Calibration,
    timesteps: Sequence[int],
    *,
    inputs: Inputs = "sliced",
    ridge: float = RIDGE,
    rename: Rename = unchanged,
    progress: Progress = silent,
) -> None:
    """Fit the layers of ``pruned``, in place and in the order they run, to the outputs that ``dense`` has there.

    ``inputs``: what a layer is fitted on, the "dense" model's activations at the kept channels, or those of the
    "sliced" one behind the layers fitted already, whose errors it then makes up for too. The first layer of the time
    embedding and queries and keys of narrower attention stay as they are: theirs are no slices of the dense ones.
    """
    pairs = dict(_layers(dense, pruned, layout, kept, rename))
    order = [name for name in _order(dense, calibration, timesteps[0]) if name in pairs]
    for done, name in enumerate(order):
        old, new = pairs[name]
        equations = NormalEquations(new)
        rows, columns = (indices(layout.tensors[f"{name}.weight"][dim], kept) for dim in (0, 1))
        for t in timesteps:
            with torch.no_grad(), _recorded(old) as seen, _recorded(new) as sliced:
                prediction_at(dense, calibration, t)
                if inputs == "sliced":
                    prediction_at(pruned, calibration, t)
            for number, (x, y) in enumerate(seen):
                dim = 1 if isinstance(new, nn.Conv2d) else -1
                given = sliced[number][0] if inputs == "sliced" else x.index_select(dim, columns.to(x.device))
                with torch.no_grad():
                    equations.add(given, y.index_select(dim, rows.to(y.device)))
        equations.solve(ridge)
        progress("reconstructing", done + 1, len(order))


def _layers(
    dense: ModelMixin, pruned: ModelMixin, layout: Layout, kept: Kept, rename: Rename
) -> Iterator[tuple[str, tuple[Layer, Layer]]]:
    """The layers whose inputs and outputs are slices of the dense ones', by their dense names."""
    modules = dict(pruned.named_modules())
    for name, old in dense.named_modules():
        weight = f"{name}.weight"
        called = rename(weight)
        dims = layout.tensors.get(weight, {})
        if not isinstance(old, nn.Conv2d | nn.Linear) or called is None or not {0, 1} <= set(dims):
            continue
        new = modules[called.removesuffix(".weight")]
        sliced = tuple(len(indices(dims[dim], kept)) for dim in (0, 1))
        scaled = name.endswith((".to_q", ".to_k")) and sliced[0] < len(old.weight)
        left = scaled or name == "time_embedding.linear_1"
        if isinstance(new, nn.Conv2d | nn.Linear) and tuple(new.weight.shape[:2]) == sliced and not left:
            yield name, (old, new)


def _order(model: ModelMixin, calibration: Calibration, t: int) -> list[str]:
    """The names of convolutions and linears in the order they first run."""
    names: dict[str, None] = {}
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: names.setdefault(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        prediction_at(model, calibration.part(slice(1)), t)
    for hook in hooks:
        hook.remove()
    return list(names)


@contextlib.contextmanager
def _recorded(layer: Layer) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """The (input, output) of every call of a layer."""
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []
    record: Callable[..., None] = lambda _, given, output: calls.append((given[0], output))  # noqa: E731
    hook = layer.register_forward_hook(record)
    try:
        yield calls
    finally:
        hook.remove()
