"""The one numeric policy: float32 means float32, in torch, ONNX Runtime and TensorRT alike.

NVIDIA GPUs can round float32 products to 10 bits of mantissa (TF32), and each library has a default of its own: torch
does so in convolutions and not in matrix products, ONNX Runtime and TensorRT everywhere. Here it is off unless a runner
is asked for by the precision tf32 (torch:tf32, onnxruntime:tf32) or an engine was built with --tf32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TF32 = "off, unless a runner's dtype is tf32"


@contextmanager
def torch_numerics(*, tf32: bool = False, search: bool = False) -> Iterator[None]:
    """Inside, torch rounds float32 products to TF32 only if ``tf32``, and cuDNN tries its kernels if ``search``."""
    from torch.backends import cuda, cudnn

    wanted = ((cuda.matmul, "allow_tf32", tf32), (cudnn, "allow_tf32", tf32), (cudnn, "benchmark", search))
    changed = [(owner, name, value) for owner, name, value in wanted if getattr(owner, name) != value]
    before = [(owner, name, not value) for owner, name, value in changed]
    _set(changed)
    try:
        yield
    finally:
        _set(before)


def _set(flags: list[tuple[Any, str, bool]]) -> None:
    for owner, name, value in flags:
        setattr(owner, name, value)
