"""Captions to the inputs of a denoiser, through CLIP's text encoders.

Stable Diffusion has one, and its denoiser takes the last hidden states. SDXL has two (its refiner only the second): the
denoiser takes the hidden states before the last layer of each, side by side, the second's pooled projection, and
``time_ids``: the size the image had, where it was cropped, and the size to make (Podell et al. 2023, section 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from toolkit.adapters.text_time import TextTime, text_time
from toolkit.core.errors import DtkError, MissingToolError, first_line
from toolkit.core.files import read_json
from toolkit.data.conditions import Condition
from toolkit.models.conditioning import ENCODERS, Conditioning, text_encoders
from toolkit.models.folder import ModelFolder
from toolkit.models.weights import load_module

Size = tuple[int, int]
"""Height and width."""
NULL = ""
INPUTS = ("input_ids", "input_ids_2")
AESTHETIC_SCORES = (6.0, 2.5)  # of a caption and of the null condition, as StableDiffusionXLImg2ImgPipeline has them


@dataclass(frozen=True)
class SizeIds:
    """The ``time_ids`` of every image made, those of the null condition, and whether its caption counts as zeros.

    The images of a data set are resized and cropped before they are seen, so that one size stands for all.
    """

    given: tuple[float, ...]
    null: tuple[float, ...]
    zeros: bool

    @classmethod
    def of(cls, added: TextTime, image: Size, *, zeros: bool) -> SizeIds:
        """The ids of whole images (height, width): SDXL's six, or its refiner's five with an aesthetic score."""
        size = (*map(float, image), 0.0, 0.0)
        ends = [(score,) for score in AESTHETIC_SCORES] if added.ids == 5 else [tuple(map(float, image))] * 2
        return cls((*size, *ends[0]), (*size, *ends[1]), zeros)


class TextEncoders(nn.Module):
    """Token ids (B, S), one tensor per encoder, to the denoiser's inputs named ``outputs``, float32.

    ``null`` holds the first encoder's token ids (1, S) of the null condition.
    """

    null: torch.Tensor

    def __init__(self, encoders: Sequence[nn.Module], sizes: SizeIds | None, null: torch.Tensor) -> None:
        super().__init__()
        self.encoders, self.sizes = nn.ModuleList(encoders), sizes
        self.register_buffer("null", null)
        self.outputs = ("encoder_hidden_states", *(("text_embeds", "time_ids") if sizes else ()))

    def forward(self, input_ids: torch.Tensor, input_ids_2: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        """Context (B, S, D); of SDXL also pooled captions (B, P) and ids (B, I)."""
        given = [input_ids] if input_ids_2 is None else [input_ids, input_ids_2]
        if self.sizes is None:
            return (self.encoders[0](input_ids=input_ids, return_dict=False)[0].float(),)
        pairs = zip(self.encoders, given, strict=True)
        encoded = [encoder(input_ids=ids, output_hidden_states=True) for encoder, ids in pairs]
        context = torch.cat([output.hidden_states[-2] for output in encoded], -1).float()
        pooled = encoded[-1].text_embeds.float()
        is_null = torch.eq(input_ids, self.null).all(1, keepdim=True)
        if self.sizes.zeros:
            context, pooled = context.masked_fill(is_null[:, None], 0.0), pooled.masked_fill(is_null, 0.0)
        null_ids, ids = (
            torch.tensor(values, device=input_ids.device) for values in (self.sizes.null, self.sizes.given)
        )
        return context, pooled, torch.where(is_null, null_ids, ids)


class CaptionEncoder:
    """Tokenizers and text encoders: captions to the denoiser's inputs, as diffusers' pipelines make them.

    Each caption is padded or cut to a tokenizer's length. ``module`` is for whoever exports it.
    """

    def __init__(
        self,
        encoders: Sequence[Any],
        tokenizers: Sequence[Any],
        conditioning: Conditioning,
        sizes: SizeIds | None,
        device: str,
    ) -> None:
        self.conditioning, self.device = conditioning, device
        self.tokenizers = dict(zip(INPUTS, tokenizers, strict=False))
        self.module = TextEncoders(encoders, sizes, self.tokens([NULL])["input_ids"]).to(device)
        self.module.requires_grad_(False)

    @classmethod
    def load(cls, model: ModelFolder, image: Size, conditioning: Conditioning, device: str) -> CaptionEncoder:
        """The tokenizers and text encoders of a pipeline folder that makes images of (height, width).

        Raises MissingToolError without transformers, DtkError for an encoder that is not CLIP's.
        """
        classes, clip_tokenizer = _clip()
        encoders, tokenizers = [], []
        for name in text_encoders(model.root):
            path = model.root / name
            names = read_json(path / "config.json").get("architectures") or ["no architecture"]
            if names != [classes[name].__name__]:
                found, expected = names[0], classes[name].__name__
                raise DtkError(f"dtk does not know the text encoder of {model.root}.", found=found, expected=expected)
            encoders.append(load_module(path, classes[name]))
            try:
                tokenizer: Any = clip_tokenizer.from_pretrained(model.root / name.replace("text_encoder", "tokenizer"))
            except Exception as error:
                raise DtkError(f"Cannot load the tokenizer of {model.root}.", found=first_line(error)) from error
            tokenizers.append(tokenizer)
        index = model.root / "model_index.json"
        return cls(encoders, tokenizers, conditioning, sizes_of(model.config, read_json(index), image), device)

    def __call__(self, conditions: Sequence[Condition]) -> dict[str, torch.Tensor]:
        captions = [NULL if condition is None else condition for condition in conditions]
        if not all(isinstance(caption, str) for caption in captions):
            raise DtkError("This model is conditioned on captions.", found="data with classes", expected="captions")
        different = sorted(set(map(str, captions)))
        with torch.inference_mode():
            outputs = self.module(**self.tokens(different))
        rows = [different.index(str(caption)) for caption in captions]
        return {name: output[rows].clone() for name, output in zip(self.module.outputs, outputs, strict=True)}

    def tokens(self, captions: Sequence[str]) -> dict[str, torch.Tensor]:
        """Token ids int64 (B, S) of captions by the encoders' inputs, padded or cut to the tokenizers' lengths."""
        encoded = {
            name: tokenizer(
                list(captions), padding="max_length", max_length=tokenizer.model_max_length, truncation=True
            )
            for name, tokenizer in self.tokenizers.items()
        }
        return {name: torch.tensor(encoding["input_ids"], device=self.device) for name, encoding in encoded.items()}


def sizes_of(config: Mapping[str, Any], pipeline: Mapping[str, Any], image: Size) -> SizeIds | None:
    """The ids of a denoiser's config and its pipeline's, None for one that takes none."""
    added = text_time(dict(config))
    zeros = bool(pipeline.get("force_zeros_for_empty_prompt", True))
    return SizeIds.of(added, image, zeros=zeros) if added else None


def _clip() -> tuple[dict[str, Any], Any]:
    try:
        from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
        from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise MissingToolError(
            "A model that is conditioned on captions needs the package transformers.",
            found=error,
            do='pip install ".[text]"',
        ) from error
    disable_progress_bar()  # only the command line speaks, through ``progress``
    return dict(zip(ENCODERS, (CLIPTextModel, CLIPTextModelWithProjection), strict=True)), CLIPTokenizer
