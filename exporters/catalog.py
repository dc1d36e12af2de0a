"""What can be exported, and whether it can be done here."""

from __future__ import annotations

from exporters.config import NEWEST_OPSET, OLDEST_OPSET
from toolkit.errors import MissingToolError
from toolkit.runners.tensorrt_api import load_tensorrt


def known_exporters() -> dict[str, str]:
    """Names of what `dtk export` writes, with a description, or with the reason why it cannot be written here."""
    return {
        "onnx": f"denoiser, sampling step and what stands around them; opset {OLDEST_OPSET} to {NEWEST_OPSET}",
        "optimum": "--layout optimum: the folder that optimum-onnx's Stable Diffusion pipelines open",
        "tensorrt": f"--trt: {_tensorrt()}",
    }


def _tensorrt() -> str:
    try:
        api = load_tensorrt()
    except MissingToolError as missing:
        return str(missing)
    return f"engines by {api.package} {api.version}"
