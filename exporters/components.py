"""What stands around a latent model's denoiser as ONNX files: autoencoder, text encoder, class embedding.

| file | from | to |
| --- | --- | --- |
| ``decoder.onnx`` | ``latents`` (B, c, h, w) as the denoiser leaves them | ``images`` (B, C, H, W) around [-1, 1] |
| ``encoder.onnx`` | ``images`` (B, C, H, W) in [-1, 1] | ``latents`` (B, c, h, w) as the denoiser takes them |
| ``conditioner.onnx`` | ``input_ids`` (B, S) int64, of a caption | ``encoder_hidden_states`` (B, S, D) |
| the same, of SDXL | also ``input_ids_2``, of the same caption | also ``text_embeds`` (B, P), ``time_ids`` (B, 6) |
| ``conditioner.onnx`` | ``class_labels`` (B,) int64, null class included | ``encoder_hidden_states`` (B, 1, D) |

Floats are float32 at the borders. Batch, and of the autoencoder height and width, are dynamic.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from exporters.onnx import Dimensions, write_onnx
from exporters.settings import DtypeName
from toolkit.adapters.base import InputSpec
from toolkit.models.autoencoder import Autoencoder, Shape, encoded
from toolkit.models.captions import CaptionEncoder
from toolkit.models.conditioners import ClassEmbedding, Conditioner
from toolkit.models.decoder import BorderedDecoder
from toolkit.models.precision import DTYPES, convert


@dataclass(frozen=True)
class Component:
    """A part to export: the module behind float32 borders, what it takes, what comes out, and what it is called.

    ``expected`` computes the same ``outputs``, by name, in torch, float32. ``dimensions`` are the dynamic ones besides
    the batch. ``facts`` go to the description.
    """

    name: str
    module: Callable[[DtypeName], nn.Module]
    specs: Mapping[str, InputSpec]
    outputs: Sequence[str]
    expected: Callable[..., Mapping[str, torch.Tensor]]
    dimensions: Dimensions
    facts: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path, *, dtype: DtypeName, opset: int) -> Path:
        """Write ``folder``/<name>.onnx with its description next to it; returns the path."""
        path = folder / f"{self.name}.onnx"
        module = self.module(dtype)
        facts = {"dtype": dtype, **self.facts}
        write_onnx(module, self.specs, path, outputs=self.outputs, opset=opset, facts=facts, dimensions=self.dimensions)
        return path


def autoencoder_components(open_autoencoder: Callable[[], Autoencoder], latent: Shape) -> list[Component]:
    """Decoder and encoder of an autoencoder whose latents the denoiser takes in the shape ``latent`` (c, h, w).

    ``open_autoencoder`` opens it with its own weights, which an export converts.
    """
    autoencoder = open_autoencoder()
    image, factor = autoencoder.image_shape(latent), autoencoder.factor
    sides = {2: "height", 3: "width"}
    return [
        Component(
            "decoder",
            lambda dtype: BorderedDecoder(open_autoencoder(), dtype),
            {"latents": InputSpec(latent)},
            ["images"],
            lambda latents: {"images": autoencoder.decode(latents)},
            {"latents": {axis: (1, name) for axis, name in sides.items()}},
            {"image": list(image)},
        ),
        Component(
            "encoder",
            lambda dtype: Encoder(open_autoencoder(), dtype),
            {"images": InputSpec(image)},
            ["latents"],
            lambda images: {"latents": autoencoder.encode(images)},
            {"images": {axis: (factor, f"latent_{name}") for axis, name in sides.items()}},
        ),
    ]


def conditioner_components(open_it: Callable[[], Conditioner]) -> list[Component]:
    """The component that makes a context, none if the denoiser takes class labels or nothing."""
    conditioner = open_it()
    if isinstance(conditioner, CaptionEncoder):
        encoders = conditioner.module
        return [
            Component(
                "conditioner",
                lambda dtype: _converted(_caption_encoder(open_it()), dtype),
                token_specs(conditioner),
                encoders.outputs,
                lambda **ids: dict(zip(encoders.outputs, encoders(**ids), strict=True)),
                {},
            )
        ]
    if isinstance(conditioner, ClassEmbedding):
        table = conditioner.table
        return [
            Component(
                "conditioner",
                lambda dtype: Table(table),
                {"class_labels": InputSpec((), "int64", len(table))},
                ["encoder_hidden_states"],
                lambda class_labels: {"encoder_hidden_states": table[class_labels][:, None]},
                {},
                {"classes": conditioner.conditioning.classes},
            )
        ]
    return []


def token_specs(conditioner: CaptionEncoder) -> dict[str, InputSpec]:
    """The token ids that the text encoders take."""
    return {
        name: InputSpec((tokenizer.model_max_length,), "int64", len(tokenizer))
        for name, tokenizer in conditioner.tokenizers.items()
    }


def write_tokenizers(conditioner: Conditioner, folder: Path) -> None:
    """Write a caption model's tokenizers, padding and cutting included, as files the package tokenizers reads.

    Each is called as its input of the conditioner, with ``tokenizer`` in place of ``input_ids``.
    """
    if isinstance(conditioner, CaptionEncoder):
        conditioner.tokens([""])  # sets the padding and truncation they are called with
        for name, tokenizer in conditioner.tokenizers.items():
            tokenizer.backend_tokenizer.save(str(folder / f"{name.replace('input_ids', 'tokenizer')}.json"))


class Encoder(nn.Module):
    """Images to latents in ``dtype``: the mode of AutoencoderKL, VQModel's values before quantisation."""

    def __init__(self, autoencoder: Autoencoder, dtype: DtypeName) -> None:
        super().__init__()
        self.dtype, self.module, self.latent_map = DTYPES[dtype], autoencoder.module, autoencoder.latent_map
        convert(self.module, self.dtype)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Latents (B, c, h, w) float32 of ``images`` (B, C, H, W) float32."""
        return self.latent_map.to_latents(encoded(self.module, images.to(self.dtype)).to(images.dtype))


class Table(nn.Module):
    """Class ids to rows of a table, as a context of one token; a table needs no precision but its own."""

    table: torch.Tensor

    def __init__(self, table: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("table", table)

    def forward(self, class_labels: torch.Tensor) -> torch.Tensor:
        """A context (B, 1, D) float32 of ``class_labels`` (B,) int64."""
        rows: torch.Tensor = torch.nn.functional.embedding(class_labels, self.table)
        return rows[:, None]


def _converted(conditioner: CaptionEncoder, dtype: DtypeName) -> nn.Module:
    """The text encoders in ``dtype``; what they give is float32."""
    convert(conditioner.module, DTYPES[dtype])
    return conditioner.module


def _caption_encoder(conditioner: Conditioner) -> CaptionEncoder:
    assert isinstance(conditioner, CaptionEncoder)
    return conditioner
