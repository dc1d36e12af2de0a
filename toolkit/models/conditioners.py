"""What turns a class, a caption or nothing at all into inputs of a denoiser; one class for each kind of model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from toolkit.core.errors import DtkError, MissingToolError, first_line
from toolkit.core.files import read_json
from toolkit.data.conditions import Condition
from toolkit.models.conditioning import CLASS_EMBEDDING, Conditioning, class_ids, find_conditioning
from toolkit.models.folder import ModelFolder
from toolkit.models.weights import check_finite, load_module

if TYPE_CHECKING:
    import torch


class Conditioner(Protocol):
    """Turns conditions into inputs of the denoiser."""

    conditioning: Conditioning

    def __call__(self, conditions: Sequence[Condition]) -> dict[str, torch.Tensor]:
        """The inputs by name, one row per condition, on the device the conditioner was opened for.

        Raises DtkError for a condition of another kind, an unknown class, or None if there is no null condition.
        """
        ...


def open_conditioner(model: ModelFolder, device: str = "cpu") -> Conditioner:
    """The conditioner of ``model`` with its weights. Raises DtkError if its files are damaged."""
    conditioning = find_conditioning(model)
    if conditioning.kind == "none":
        return Unconditional(conditioning)
    if conditioning.kind == "caption":
        return CaptionEncoder.load(model.root, conditioning, device)
    if conditioning.tokens:
        return ClassEmbedding(model.root / CLASS_EMBEDDING, conditioning, device)
    return ClassLabels(conditioning, device)


class Unconditional:
    """The denoiser takes nothing but the sample and the timestep."""

    def __init__(self, conditioning: Conditioning) -> None:
        self.conditioning = conditioning

    def __call__(self, conditions: Sequence[Condition]) -> dict[str, torch.Tensor]:
        return {}


class ClassLabels:
    """The denoiser embeds class ids itself; the null class is the id after the last."""

    def __init__(self, conditioning: Conditioning, device: str) -> None:
        self.conditioning, self.device = conditioning, device

    def __call__(self, conditions: Sequence[Condition]) -> dict[str, torch.Tensor]:
        import torch

        return {"class_labels": torch.tensor(class_ids(conditions, self.conditioning), device=self.device)}


class ClassEmbedding:
    """A table of vectors (classes, D), the null class's behind them, gives a context of one token."""

    def __init__(self, path: Path, conditioning: Conditioning, device: str) -> None:
        from safetensors.torch import load_file

        tensors = load_file(path)
        check_finite(tensors, str(path))
        ((_, table),) = tensors.items()
        self.conditioning, self.table = conditioning, table.float().to(device)

    def __call__(self, conditions: Sequence[Condition]) -> dict[str, torch.Tensor]:
        rows = self.table[class_ids(conditions, self.conditioning)]
        return {"encoder_hidden_states": rows[:, None]}


NULL = ""


class CaptionEncoder:
    """CLIP's tokenizer and text encoder: captions to the last hidden states (B, S, D), as StableDiffusionPipeline does.

    Each caption is padded or cut to the tokenizer's length. ``module`` is the transformers module itself, for whoever
    exports it.
    """

    def __init__(self, module: Any, tokenizer: Any, conditioning: Conditioning, device: str) -> None:
        self.conditioning, self.device, self.tokenizer = conditioning, device, tokenizer
        self.module: Any = module.to(device)
        self.module.requires_grad_(False)

    @classmethod
    def load(cls, root: Path, conditioning: Conditioning, device: str) -> CaptionEncoder:
        """``tokenizer/`` and ``text_encoder/`` of a pipeline folder.

        Raises MissingToolError without transformers, DtkError for an encoder that is not CLIP's.
        """
        clip_text_model, clip_tokenizer = _clip()
        path = root / "text_encoder"
        names = read_json(path / "config.json").get("architectures") or ["no architecture"]
        if names != ["CLIPTextModel"]:
            raise DtkError(f"dtk does not know the text encoder of {root}.", found=names[0], expected="CLIPTextModel")
        module = load_module(path, clip_text_model)
        try:
            tokenizer: Any = clip_tokenizer.from_pretrained(root / "tokenizer")
        except Exception as error:
            raise DtkError(f"Cannot load the tokenizer of {root}.", found=first_line(error)) from error
        return cls(module, tokenizer, conditioning, device)

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
        encoded = self.tokenizer(list(captions), padding="max_length", max_length=length, truncation=True)
        return torch.tensor(encoded["input_ids"], device=self.device)


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
