"""torch.compile, believed only if its gradients are those of the network as it is.

Compiled code has lost gradients without a word: with torch 2.13 on a CPU, of all before a UNet's attention.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from toolkit.core.errors import DtkError

APART = 0.25  # of a tensor's gradient: half precision rounds by some hundredths of it, a lost path is about all of it
FAINT = 1e-3  # of the norm of all gradients: a smaller one may be rounding only, such as that of a key's bias


def check_gradients(network: nn.Module, backward: Callable[[], object]) -> None:
    """Call ``backward`` uncompiled and compiled; it leaves its gradients in ``network``, which has none afterwards.

    They are compared on the host, so that the device never holds two sets of them.

    Raises DtkError if they differ, naming the first tensor.
    """
    with torch.compiler.set_stance("force_eager"):
        expected = _gradients(network, backward)
    gradients = _gradients(network, backward)
    faint = FAINT * float(torch.stack([gradient.norm() for gradient in expected.values()]).norm())
    for name, gradient in expected.items():
        apart, norm = float((gradients[name] - gradient).norm()), max(float(gradient.norm()), faint)
        if not apart <= APART * norm:
            raise DtkError(
                "The compiled network has other gradients than the network itself.",
                found=f"those of {name}: {apart:.3g} apart, their norm {norm:.3g}, torch {torch.__version__}",
                expected=f"at most {APART:.0%} of the norm apart",
                do="set recover.compile=false, or try another version of torch",
            )


def _gradients(network: nn.Module, backward: Callable[[], object]) -> dict[str, torch.Tensor]:
    network.zero_grad(set_to_none=True)
    backward()
    gradients = {
        name: torch.zeros(parameter.shape) if parameter.grad is None else parameter.grad.cpu()
        for name, parameter in network.named_parameters()
    }
    network.zero_grad(set_to_none=True)
    return gradients
