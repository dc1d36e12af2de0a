"""Weights from a folder of safetensors into a module: checked first, float32, in eval mode."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.core.errors import DtkError, first_line

if TYPE_CHECKING:
    import torch


PICKLES = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}
WEIGHTS = "*.safetensors"
VARIANT = re.compile(r"model\.[a-z]\w*[-.]")  # diffusion_pytorch_model.fp16.safetensors
CONVERT = "dtk import FOLDER -o MODEL, which makes plain safetensors of them without running any code"
QUANTISED = {"I8", "U8", "F8_E4M3", "F8_E5M2"}  # safetensors' names of 8-bit types, in which 4-bit ones are packed too


def load_module(folder: Path, kind: type[Any]) -> Any:
    """A module of a diffusers or transformers class with the weights of ``folder``, float32, in eval mode.

    Raises DtkError if the weights are pickled, damaged, incomplete, of other shapes, or not finite.
    """
    check_weight_files(folder)
    try:
        module, info = kind.from_pretrained(folder, use_safetensors=True, output_loading_info=True)
    except Exception as error:
        raise DtkError(f"Cannot load the weights of {folder}.", found=first_line(error)) from error
    wrong = [f"missing {name}" for name in info["missing_keys"]] + [f"unexpected {n}" for n in info["unexpected_keys"]]
    if wrong:
        raise DtkError(
            f"The weights of {folder} do not fit its config.json.",
            found="; ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""),
            expected="every tensor of the configured model and no other",
        )
    check_finite(module.state_dict(), str(folder))
    return module.float().eval()


def check_weight_files(folder: Path) -> None:
    """Refuse a folder whose weights are absent, pickled, truncated or tampered with."""
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob(WEIGHTS))
    if gone := [path.name for path in files if not path.is_file()]:
        raise DtkError(
            f"{folder} names weights that are not there.",
            found=f"{', '.join(gone)}: a link to nothing, or no file",
            do="copy or download it again",
        )
    if not files:
        pickled = [path.name for path in folder.iterdir() if path.suffix in PICKLES]
        raise DtkError(
            f"{folder} has no safetensors weights.",
            found=f"{', '.join(pickled)} (pickled: loading it could run any code)" if pickled else "no weights",
            expected="diffusion_pytorch_model.safetensors",
            do=CONVERT if pickled else None,
        )
    if all(VARIANT.search(path.name) for path in files):
        names = ", ".join(path.name for path in files)
        raise DtkError(f"{folder} has only weights of a variant.", found=names, expected="plain ones", do=CONVERT)
    for path in files:
        try:
            with safe_open(path, framework="np") as weights:
                types = {name: weights.get_slice(name).get_dtype() for name in weights.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise DtkError(
                f"{path} is damaged: it was truncated or changed.", found=error, do="copy or download it again"
            ) from error
        _check_plain(path, types)


def _check_plain(path: Path, types: dict[str, str]) -> None:
    """Refuse adapters that are not merged, and quantised weights."""
    adapters = [name for name in types if "lora" in name.lower()]
    if adapters:
        raise DtkError(
            f"{path} holds LoRA layers that are not merged into the weights.",
            found=f"{len(adapters)} tensors such as {adapters[0]}",
            expected="the weights of the model only",
            do="merge first: pipeline.load_lora_weights(...), fuse_lora(), unload_lora_weights(), save_pretrained(...)",
        )
    quantised = [name for name, kind in types.items() if kind in QUANTISED]
    if quantised:
        raise DtkError(
            f"The weights in {path} are quantised.",
            found=f"{quantised[0]} is {types[quantised[0]]}",
            expected="float weights",
            do="prune first, quantise afterwards",
        )


def check_finite(tensors: dict[str, torch.Tensor], where: str) -> None:
    """Refuse NaN and infinities, naming the tensor."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise DtkError(f"The tensor {name} of {where} holds NaN or infinity.", expected="finite weights")
