"""The directory that optimum-onnx's ORTStableDiffusionPipeline and ORTDiffusionPipeline open.

    optimum/model_index.json  scheduler/  tokenizer/
    optimum/{unet,text_encoder,vae_decoder,vae_encoder}/{model.onnx,config.json}

Names and shapes are those of optimum-onnx 0.1.0: one timestep for the whole batch, the autoencoder without its scale
(the pipeline applies that), moments instead of latents out of the encoder. Borders are float32.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from exporters.base import Exported
from exporters.components import token_specs
from exporters.ladder import NO_BF16, dynamic_sides
from exporters.onnx import dynamic_axes, save, trace
from exporters.parity import TOLERANCES, relative_errors
from exporters.settings import ExportSettings
from toolkit.adapters.base import InputSpec
from toolkit.adapters.inputs import example_inputs
from toolkit.core.errors import DtkError, UsageError
from toolkit.core.files import read_json, write_json, write_text
from toolkit.core.progress import Progress
from toolkit.models.autoencoder import Autoencoder, find_autoencoder
from toolkit.models.build import load_denoiser
from toolkit.models.captions import CaptionEncoder
from toolkit.models.conditioners import open_conditioner
from toolkit.models.conditioning import denoiser_inputs
from toolkit.models.folder import ModelFolder
from toolkit.models.precision import DTYPES, BorderedDenoiser, convert
from toolkit.runners.onnxruntime import Session

PIPELINE = "StableDiffusionPipeline"
GRAPH = "model.onnx"


@dataclass(frozen=True)
class Graph:
    """One file: the module, example inputs, the axes that are dynamic by input, and the name of the output."""

    folder: str
    module: nn.Module
    inputs: Mapping[str, torch.Tensor]
    axes: Mapping[str, Mapping[int, Any]]
    output: str
    config: Path


def check_layout(model: ModelFolder) -> None:
    """Refuse a model that none of optimum's pipelines opens. Raises UsageError."""
    index = model.root / "model_index.json"
    name = read_json(index).get("_class_name") if index.is_file() else None
    if name != PIPELINE:
        raise UsageError(
            "optimum has no pipeline for this model.",
            found=f"{name or 'no model_index.json'} in {model.root}",
            expected=PIPELINE,
            do="leave out --layout: the ONNX files themselves need no optimum",
        )


def write_layout(model: ModelFolder, settings: ExportSettings, folder: Path, progress: Progress) -> dict[str, Any]:
    """Write the directory to ``folder``; the deviation of each graph from torch by its name is returned.

    Raises UsageError for a model of another pipeline, DtkError if a graph is out of tolerance.
    """
    check_layout(model)
    by_model: dict[str, Any] = {}
    builders = (_unet, _text_encoder, _vae_decoder, _vae_encoder)
    for number, build in enumerate(builders):
        progress("optimum", number, len(builders))
        graph = build(model, settings)
        place = folder / graph.folder
        place.mkdir()
        shutil.copyfile(graph.config, place / "config.json")
        with torch.inference_mode():
            expected = graph.module(**graph.inputs)
        save(
            trace(graph.module, graph.inputs, graph.axes, [graph.output], settings.known_opset),
            graph.module,
            place / GRAPH,
        )
        by_model[graph.folder] = (
            NO_BF16 if settings.dtype == "bf16" else _compared(graph, place / GRAPH, expected, settings)
        )
    for name in ("scheduler", "tokenizer"):
        shutil.copytree(model.root / name, folder / name)
    _write_vocabulary(folder / "tokenizer")
    write_json(folder / "model_index.json", _index(model))
    progress("optimum", len(builders), len(builders))
    return by_model


def _compared(graph: Graph, path: Path, expected: torch.Tensor, settings: ExportSettings) -> float:
    with closing(Session(path)) as session:
        error = float(relative_errors(expected, session(graph.inputs)[graph.output]).max())
    if not error <= TOLERANCES[settings.dtype]:
        raise DtkError(
            f"The {graph.folder} for optimum does not compute what torch computes.",
            found=f"relative error {error:.3g}",
            expected=f"at most {TOLERANCES[settings.dtype]:g} of the largest value",
        )
    return error


def _index(model: ModelFolder) -> dict[str, Any]:
    """The pipeline's index without what is checked or watermarked by other models."""
    index: dict[str, Any] = read_json(model.root / "model_index.json")
    absent = {name: [None, None] for name in ("safety_checker", "feature_extractor", "image_encoder") if name in index}
    return index | absent | {"requires_safety_checker": False}


def _write_vocabulary(tokenizer: Path) -> None:
    """vocab.json and merges.txt, which the older transformers that optimum needs reads, out of tokenizer.json."""
    if (tokenizer / "vocab.json").is_file() or not (tokenizer / "tokenizer.json").is_file():
        return
    model = read_json(tokenizer / "tokenizer.json")["model"]
    write_json(tokenizer / "vocab.json", model["vocab"])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    write_text(tokenizer / "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")


def _unet(model: ModelFolder, settings: ExportSettings) -> Graph:
    specs = denoiser_inputs(model, settings.tokens)
    inputs = example_inputs(specs, 2, seed=settings.seed)
    inputs["timestep"] = inputs["timestep"][0]
    axes = dynamic_axes([name for name in specs if name != "timestep"], dynamic_sides(model))
    module = _OneTimestep(BorderedDenoiser(load_denoiser(model), settings.dtype, settings.keep_fp32))
    return Graph("unet", module, inputs, axes | {"timestep": {}}, "out_sample", model.denoiser / "config.json")


def _text_encoder(model: ModelFolder, settings: ExportSettings) -> Graph:
    encoder = open_conditioner(model)
    assert isinstance(encoder, CaptionEncoder)
    module = _Bordered(encoder.module.encoders[0], settings)
    inputs = example_inputs(token_specs(encoder), 2, seed=settings.seed)
    config = model.root / "text_encoder" / "config.json"
    return Graph("text_encoder", module, inputs, dynamic_axes(inputs, {}), "last_hidden_state", config)


def _vae_decoder(model: ModelFolder, settings: ExportSettings) -> Graph:
    module, latent, _, config = _autoencoder(model, settings)
    inputs = example_inputs({"latent_sample": InputSpec(latent)}, 2, seed=settings.seed)
    axes = dynamic_axes(inputs, {"latent_sample": {2: (1, "latent_height"), 3: (1, "latent_width")}})
    return Graph("vae_decoder", _Decode(module, settings), inputs, axes, "sample", config)


def _vae_encoder(model: ModelFolder, settings: ExportSettings) -> Graph:
    module, latent, image, config = _autoencoder(model, settings)
    inputs = example_inputs({"sample": InputSpec(image)}, 2, seed=settings.seed)
    factor = image[1] // latent[1]
    axes = dynamic_axes(inputs, {"sample": {2: (factor, "latent_height"), 3: (factor, "latent_width")}})
    return Graph("vae_encoder", _Encode(module, settings), inputs, axes, "latent_parameters", config)


def _autoencoder(model: ModelFolder, settings: ExportSettings) -> tuple[nn.Module, Any, Any, Path]:
    folder = find_autoencoder(model)
    assert folder is not None  # the pipeline has one
    channels, height, width = model.input_specs()["sample"].shape
    latent = (channels, height, width)
    return Autoencoder.load(folder).module, latent, folder.image_shape(latent), folder.path / "config.json"


class _OneTimestep(nn.Module):
    """A denoiser that takes one timestep () for the whole batch, as diffusers' pipelines call it."""

    def __init__(self, denoiser: BorderedDenoiser) -> None:
        super().__init__()
        self.denoiser = denoiser

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor
    ) -> torch.Tensor:
        steps = timestep.expand(sample.shape[0])
        prediction: torch.Tensor = self.denoiser(sample, steps, encoder_hidden_states=encoder_hidden_states)
        return prediction


class _Bordered(nn.Module):
    """A module in the precision of the settings, float32 out."""

    def __init__(self, module: nn.Module, settings: ExportSettings) -> None:
        super().__init__()
        self.module, self.dtype = module.requires_grad_(False), DTYPES[settings.dtype]
        convert(module, self.dtype)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.module(input_ids=input_ids, return_dict=False)[0]
        return states.float()


class _Decode(_Bordered):
    def forward(self, latent_sample: torch.Tensor) -> torch.Tensor:
        decode: Any = self.module.decode
        images: torch.Tensor = decode(latent_sample.to(self.dtype), return_dict=False)[0]
        return images.float()


class _Encode(_Bordered):
    def forward(self, sample: torch.Tensor) -> torch.Tensor:
        encode: Any = self.module.encode
        moments: torch.Tensor = encode(sample.to(self.dtype)).latent_dist.parameters
        return moments.float()


class OptimumExporter:
    """RUN/optimum: the folder that optimum-onnx's Stable Diffusion pipelines open."""

    name = folder = key = "optimum"

    def description(self) -> str:
        return "--layout optimum: the folder that optimum-onnx's Stable Diffusion pipelines open"

    def check(self, models: Mapping[str, ModelFolder], settings: ExportSettings) -> None:
        check_layout(models["compressed"])

    def inputs(self, exported: Exported) -> tuple[dict[str, Any], dict[str, str]]:
        settings = exported.settings.model_dump(mode="json", include={"dtype", "keep_fp32", "opset", "tokens", "seed"})
        return settings, {"model": exported.models["compressed"].sha256}

    def write(self, folder: Path, exported: Exported, progress: Progress) -> dict[str, Any]:
        return {"deviations": write_layout(exported.models["compressed"], exported.settings, folder, progress)}

    def result(self, exported: Exported, record: Mapping[str, Any]) -> dict[str, Any]:
        return {"folder": self.folder, "deviations": record["deviations"]}


EXPORTER = OptimumExporter()
