"""Captions through CLIP's text encoder, as StableDiffusionPipeline calls it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.conditioner import Conditioning
from toolkit.data.conditions import Condition
from toolkit.errors import DtkError, MissingToolError
from toolkit.files import read_json
from toolkit.weights import brief, load_module

if TYPE_CHECKING:
    import torch

NULL = ""


class CaptionEncoder:
    """``tokenizer/`` and ``text_encoder/`` of a pipeline folder: captions to the last hidden states (B, S, D).

    Each caption is padded or cut to the tokenizer's length. ``module`` is the transformers module itself, for whoever
    exports it. Raises MissingToolError without transformers, DtkError for an encoder that is not CLIP's.
    """

    def __init__(self, root: Path, conditioning: Conditioning, device: str) -> None:
        clip_text_model, clip_tokenizer = _clip()
        path = root / "text_encoder"
        names = read_json(path / "config.json").get("architectures") or ["no architecture"]
        if names != ["CLIPTextModel"]:
            raise DtkError(f"dtk does not know the text encoder of {root}.", found=names[0], expected="CLIPTextModel")
        self.conditioning, self.device = conditioning, device
        self.module: Any = load_module(path, clip_text_model).to(device)
        self.module.requires_grad_(False)
        try:
            self.tokenizer: Any = clip_tokenizer.from_pretrained(root / "tokenizer")
        except Exception as error:
            raise DtkError(f"Cannot load the tokenizer of {root}.", found=brief(error)) from error

    def __call__(self, conditions: Sequence[Condition]) -> dict[str, torch.Tensor]:
        import torch

        captions = [NULL if condition is None else condition for condition in conditions]
        if not all(isinstance(caption, str) for caption in captions):
            raise DtkError("This model is conditioned on captions.", found="data with classes", expected="captions")
        different = sorted(set(map(str, captions)))
        with torch.inference_mode():
            states = self.module(self.tokens(different))[0]
        return {"encoder_hidden_states": states[[different.index(str(caption)) for caption in captions]].clone()}

    def tokens(self, captions: Sequence[str]) -> torch.Tensor:
        """Token ids int64 (B, S) of captions, padded or cut to the tokenizer's length."""
        import torch

        length = self.tokenizer.model_max_length
        found = self.tokenizer(list(captions), padding="max_length", max_length=length, truncation=True)
        return torch.tensor(found["input_ids"], device=self.device)


def _clip() -> tuple[Any, Any]:
    try:
        from transformers import CLIPTextModel, CLIPTokenizer
        from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise MissingToolError(
            "A model that is conditioned on captions needs the package transformers.",
            found=error,
            do='pip install ".[text]"',
        ) from error
    disable_progress_bar()  # only the command line speaks, through ``progress``
    return CLIPTextModel, CLIPTokenizer
