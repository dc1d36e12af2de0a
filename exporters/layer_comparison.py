"""Which layer of an engine computes something else: Polygraphy compares TensorRT with ONNX Runtime, tensor by tensor.

https://pypi.org/project/polygraphy/ is NVIDIA's and no requirement of dtk's: without it a failed comparison says how.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from exporters.engine_config import Shapes
from toolkit.core.files import write_text

START = "from polygraphy.tools import main; raise SystemExit(main())"
LONGEST_S = 480
SHOWN = 3
MISSING = "pip install polygraphy, then the same command compares the layers one by one"


def differing_layers(onnx: Path, shapes: Shapes, tolerance: float, log: Path, *, rtx: bool = False) -> str:
    """The first tensors of ``onnx`` that TensorRT computes otherwise than ONNX Runtime, in words, or how to learn them.

    Compared at the smallest of ``shapes``; each tensor may be off by ``tolerance``, absolute and relative. What
    Polygraphy says is kept in ``log``.
    """
    if find_spec("polygraphy") is None:
        return MISSING
    sizes = [f"{name}:[{','.join(map(str, smallest))}]" for name, (smallest, *_) in shapes.items()]
    limits = ["--atol", str(tolerance), "--rtol", str(tolerance)]
    command = ["run", str(onnx), "--onnxrt", "--trt", "--strongly-typed", "--onnx-outputs", "*", "--trt-outputs", "*"]
    try:
        done = subprocess.run(
            [sys.executable, "-c", START, *command, "--input-shapes", *sizes, *limits],
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            env=os.environ | ({"POLYGRAPHY_USE_TENSORRT_RTX": "1"} if rtx else {}),
        )
    except subprocess.TimeoutExpired:
        return f"Polygraphy compared for {LONGEST_S} s and was stopped"
    write_text(log, done.stdout + done.stderr)
    differ = re.findall(r"FAILED \| Output: '([^']+)'", done.stdout)
    if differ:
        return f"the first layers that differ, by Polygraphy: {', '.join(differ[:SHOWN])} (all in {log})"
    return f"Polygraphy found no layer that differs (code {done.returncode}): see {log}"
