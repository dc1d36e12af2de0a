"""Reconstruct after slicing: what a layer's dropped inputs said is said again by the ones that stay.

Each convolution and linear layer of the pruned model is fitted by ridge least squares so that its outputs change least
on calibration data (He, Zhang, Sun, "Channel pruning for accelerating very deep neural networks", ICCV 2017, equation
3). The ridge pulls to the sliced weights, not to zero: where the data say nothing, nothing changes.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from diffusers import ModelMixin
from torch import nn

from toolkit.adapters.blocks import Rename, unchanged
from toolkit.core.progress import Progress, silent
from toolkit.pruning.calibration import Calibration
from toolkit.pruning.layout import Kept, Layout, indices

RIDGE = 1e-3  # of the mean eigenvalue of the inputs' second moments
UNFOLDED = 2**26  # the most entries of a convolution's unfolded inputs at once, 256 MiB
Layer = nn.Conv2d | nn.Linear
Inputs = Literal["dense", "sliced"]


class NormalEquations:
    """Least squares of a layer's outputs on its inputs, streamed: holds sums of x x^T and of residual x^T only."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        size = layer.weight[0].numel() + (layer.bias is not None)
        self._moments = torch.zeros(size, size, dtype=torch.float64, device=layer.weight.device)
        self._residuals = torch.zeros(len(layer.weight), size, dtype=torch.float64, device=layer.weight.device)

    def add(self, inputs: torch.Tensor, wanted: torch.Tensor) -> None:
        """Rows of data: ``inputs`` as the layer takes them, ``wanted`` the outputs it should give for them."""
        missing = wanted - self.layer(inputs)
        if isinstance(self.layer, nn.Linear):
            self._add(inputs.flatten(0, -2), missing.flatten(0, -2))
            return
        if isinstance(self.layer.padding, str) or self.layer.padding_mode != "zeros" or self.layer.groups != 1:
            raise NotImplementedError("a convolution with padding by name, of another mode, or of groups")
        shape = (self.layer.dilation, self.layer.padding, self.layer.stride)
        per_image = missing[0, 0].numel() * self.layer.weight[0].numel()
        images = max(1, UNFOLDED // per_image)
        for some, left in zip(inputs.split(images), missing.split(images), strict=True):
            x = nn.functional.unfold(some, self.layer.kernel_size, *shape).transpose(1, 2).flatten(0, 1)
            self._add(x, left.flatten(2).transpose(1, 2).flatten(0, 1))

    def _add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        if self.layer.bias is not None:
            x = nn.functional.pad(x, (0, 1), value=1.0)
        self._moments += (x.T @ x).double()
        self._residuals += (y.T @ x).double()

    @torch.no_grad()
    def solve(self, ridge: float = RIDGE) -> None:
        """Change the layer's weight and bias to the fit."""
        strength = ridge * self._moments.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
        self._moments.diagonal().add_(strength)
        change = torch.cholesky_solve(self._residuals.T, torch.linalg.cholesky(self._moments)).T
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
    batch_size: int | None = None,
    progress: Progress = silent,
) -> None:
    """Fit the layers of ``pruned``, in place and in the order they run, to the outputs that ``dense`` has there.

    ``inputs``: what a layer is fitted on, the "dense" model's activations at the kept channels, or those of the
    "sliced" one behind the layers fitted already, whose errors it then makes up for too. The first layer of the time
    embedding and queries and keys of narrower attention stay as they are: theirs are no slices of the dense ones.
    ``batch_size``: images at once, None = all; changes memory only. A layer costs a forward pass of both models up to
    it for each of ``timesteps``.
    """
    pieces = calibration.pieces(batch_size)
    pairs = dict(_layers(dense, pruned, layout, kept, rename))
    order = [name for name in _order(dense, calibration, timesteps[0]) if name in pairs]
    for done, name in enumerate(order):
        progress("reconstructing", done, len(order))
        old, new = pairs[name]
        equations, dim = NormalEquations(new), 1 if isinstance(new, nn.Conv2d) else -1
        rows, columns = (
            torch.from_numpy(indices(layout.tensors[f"{name}.weight"][d], kept)).to(new.weight.device) for d in (0, 1)
        )
        for piece, t in itertools.product(pieces, timesteps):
            with torch.no_grad():
                x, wanted = _call(dense, old, piece, t)
                given = _call(pruned, new, piece, t)[0] if inputs == "sliced" else x.index_select(dim, columns)
                equations.add(given, wanted.index_select(dim, rows))
        equations.solve(ridge)
    progress("reconstructing", len(order), len(order))


def _layers(
    dense: ModelMixin, pruned: ModelMixin, layout: Layout, kept: Kept, rename: Rename
) -> Iterator[tuple[str, tuple[Layer, Layer]]]:
    """The layers whose inputs and outputs are slices of the dense ones', by their dense names."""
    modules = dict(pruned.named_modules())
    for name, old in dense.named_modules():
        weight = f"{name}.weight"
        dims = layout.tensors.get(weight, {})
        if not isinstance(old, nn.Conv2d | nn.Linear) or not {0, 1} <= set(dims):
            continue
        called = rename(weight)
        if called is None:
            continue
        new = modules[called.removesuffix(".weight")]
        sliced = tuple(len(indices(dims[dim], kept)) for dim in (0, 1))
        scaled = name.endswith((".to_q", ".to_k")) and sliced[0] < len(old.weight)
        left = scaled or name in ("time_embedding.linear_1", "add_embedding.linear_1")
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
        calibration.part(slice(1)).prediction_at(model, t)
    for hook in hooks:
        hook.remove()
    return list(names)


class _ReachedError(Exception):
    """Ends a forward pass that has reached the layer it is run for."""


def _call(model: ModelMixin, layer: Layer, calibration: Calibration, t: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The (input, output) of a layer's call in a forward pass, which ends there."""
    calls: list[tuple[torch.Tensor, torch.Tensor]] = []

    def stop(_: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        calls.append((given[0], output))
        raise _ReachedError

    hook = layer.register_forward_hook(stop)
    try:
        with contextlib.suppress(_ReachedError):
            calibration.prediction_at(model, t)
    finally:
        hook.remove()
    return calls[0]
