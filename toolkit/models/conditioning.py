"""What a model is conditioned on, and how a class, a caption or nothing at all becomes an input of its denoiser.

| kind | what the denoiser takes | where it comes from |
| --- | --- | --- |
| none | nothing | |
| class | ``class_labels`` (B,) | the class id itself |
| class | ``encoder_hidden_states`` (B, 1, D) | a row of ``class_embedding.safetensors`` next to the component folders |
| caption | ``encoder_hidden_states`` (B, S, D) | ``tokenizer/`` and ``text_encoder/`` (CLIP) |
| caption | and ``text_embeds`` (B, P), ``time_ids`` (B, 6) | and ``tokenizer_2/``, ``text_encoder_2/`` (SDXL) |

The null condition (None) is what classifier-free guidance (Ho and Salimans 2022) leads away from: the empty caption,
the last row of the class embedding, or the class after the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.adapters.base import TOKENS, InputSpec, adapter_of
from toolkit.adapters.inputs import input_specs
from toolkit.core.errors import DtkError
from toolkit.core.files import read_json
from toolkit.data.conditions import Condition, Kind
from toolkit.data.images import Images
from toolkit.models.folder import ModelFolder

CLASS_EMBEDDING = "class_embedding.safetensors"
ENCODERS = ("text_encoder", "text_encoder_2")


@dataclass(frozen=True)
class Conditioning:
    """What a model folder is conditioned on; read off its configs, no weights are loaded.

    ``classes``: how many class ids there are (0..classes-1), 0 for other kinds. ``has_null``: whether there is a null
    condition, without which there is neither guidance nor dropout. ``tokens``: length of the context, 0 without one.
    """

    kind: Kind
    classes: int = 0
    has_null: bool = False
    tokens: int = 0


def find_conditioning(model: ModelFolder) -> Conditioning:
    """What ``model`` is conditioned on.

    Raises DtkError if the denoiser takes a context and nothing next to it makes one, or both a context and a class.
    """
    inputs = set(model.input_specs()) - {"sample", "timestep"}
    if not inputs:
        return Conditioning("none")
    if inputs == {"class_labels"}:
        return _class_labels(model)
    if "class_labels" in inputs:
        raise DtkError(
            "dtk conditions a model on a class or on a context, not on both.", found=", ".join(sorted(inputs))
        )
    if inputs == {"encoder_hidden_states"} and (model.root / CLASS_EMBEDDING).is_file():
        rows, has_null = _embedding_rows(
            model.root / CLASS_EMBEDDING, model.input_specs()["encoder_hidden_states"].shape[1]
        )
        return Conditioning("class", rows - has_null, has_null, 1)
    encoders, needed = text_encoders(model.root), "text_encoder_2" if "text_embeds" in inputs else "text_encoder"
    if needed in encoders:
        config = read_json(model.root / needed / "config.json")
        return Conditioning("caption", 0, True, int(config.get("max_position_embeddings", TOKENS)))
    raise DtkError(
        f"The denoiser of {model.root} takes a context, and nothing next to it makes one.",
        expected=f"{needed}/ and its tokenizer (captions), or {CLASS_EMBEDDING} (classes)",
        do="name the folder that holds all components; --dry-run plans without them",
    )


def text_encoders(root: Path) -> list[str]:
    """The text encoders of a pipeline folder, in the order in which their outputs are joined."""
    return [name for name in ENCODERS if (root / name / "config.json").is_file()]


def check_data(conditioning: Conditioning, images: Images) -> str | None:
    """Refuse data whose conditions the model does not take; returns what a user should know, None if nothing.

    Raises DtkError for a class the model does not have, for subfolders that may be other classes than the model's, and
    for data without classes if the model has no null class.
    """
    if conditioning.kind == "none":
        return None
    values = images.conditions(conditioning.kind, range(len(images)))
    if conditioning.kind == "class":
        names = images.described.class_names
        if names and len(names) != conditioning.classes:
            raise DtkError(
                f"The subfolders of {images.source} are not the model's classes.",
                found=f"{len(names)} subfolders: {', '.join(names[:3])}, ...",
                expected=f"{conditioning.classes}, one per class in the order of their ids",
                do="name each subfolder by its class id, or write the ids into metadata.jsonl as label",
            )
        class_ids(values, conditioning)
    missing = sum(value is None for value in values)
    things = {"class": "classes", "caption": "captions"}[conditioning.kind]
    share = "no" if missing == len(values) else f"{len(values) - missing:,} of {len(values):,}"
    return f"{images.source} brings {share} {things}: the null condition stands in for them." if missing else None


def context_tokens(model: ModelFolder) -> int:
    """The length of the context the denoiser is called with; CLIP's 77 if nothing says it."""
    try:
        return find_conditioning(model).tokens or TOKENS
    except DtkError:
        return TOKENS


def denoiser_inputs(model: ModelFolder, tokens: int | None = None, *, timesteps: int = 1000) -> dict[str, InputSpec]:
    """The inputs of the folder's denoiser; ``tokens`` is the length of its context, None = what the folder says."""
    return input_specs(model.class_name, model.config, timesteps=timesteps, tokens=tokens or context_tokens(model))


def class_ids(conditions: Sequence[Condition], conditioning: Conditioning) -> list[int]:
    """Class ids with None as the id after the last; raises DtkError for what is no class of the model."""
    if None in conditions and not conditioning.has_null:
        raise DtkError("This model has no null class.", found="an image without a class", do="give data with classes")
    wrong = [c for c in conditions if c is not None and not (isinstance(c, int) and 0 <= c < conditioning.classes)]
    if wrong:
        raise DtkError(
            "The data's classes are not the model's.", found=repr(wrong[0]), expected=f"0 to {conditioning.classes - 1}"
        )
    return [conditioning.classes if c is None else int(c) for c in conditions]


def _class_labels(model: ModelFolder) -> Conditioning:
    classes = model.input_specs()["class_labels"].upper
    return Conditioning("class", classes, has_null=adapter_of(model.class_name).null_class)


def _embedding_rows(path: Path, width: int) -> tuple[int, bool]:
    """The number of rows, and whether the last one is the null class: so unless the metadata say null_class "none"."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as tensors:
            shapes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118
            null = (tensors.metadata() or {}).get("null_class", "last")
    except SafetensorError as error:
        raise DtkError(f"{path} is damaged: it was truncated or changed.", found=error, do="copy it again") from error
    if [len(shape) for shape in shapes.values()] != [2] or next(iter(shapes.values()))[1] != width:
        raise DtkError(
            f"{path} is no class embedding of this denoiser.",
            found="; ".join(f"{name} {shape}" for name, shape in shapes.items()) or "no tensors",
            expected=f"one tensor (classes + 1, {width}), the last row being the null class",
        )
    return int(next(iter(shapes.values()))[0]), null != "none"
