"""The recipe of a run: one YAML file that says all of it, validated once."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from exporters.settings import ExportSettings
from profiles.settings import ProfileSettings
from toolkit.core.errors import DtkError, UsageError, first_line
from toolkit.core.files import write_text
from toolkit.core.settings import Settings
from toolkit.evaluation.settings import EvaluateSettings, VerifySettings
from toolkit.handoff.settings import HandoffSettings
from toolkit.pipeline.decoder_settings import CONTINUED, DecoderSettings
from toolkit.pruning.rounds import earlier_targets
from toolkit.pruning.settings import PruneSettings
from toolkit.recovery.settings import RecoverSettings

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


class DataSettings(Settings):
    """Where images come from: ``source`` None is the embedded default.

    ``reference`` names images that are judged by and never trained on; without it the share ``holdout`` of the source
    is kept apart for that. ``stream``: of a data set of the hub, read that many of its first rows as they come instead
    of downloading all of it. ``resize``: the filter, widened where it shrinks. ``crop``: "centre" resizes until the
    image covers the model's size and keeps the middle; "none" keeps everything and stretches it.
    """

    source: str | None = None
    reference: str | None = None
    holdout: float = Field(default=0.1, gt=0, lt=1)
    seed: int = Field(default=0, ge=0)
    stream: int | None = Field(default=None, ge=1)
    resize: Literal["bicubic", "bilinear", "lanczos", "box"] = "bicubic"
    crop: Literal["centre", "none"] = "centre"


class Recipe(Settings):
    """A run: the model, its data, and the settings of each stage; a stage that is None is left out.

    ``resume_from``: a run, or the folder or hub id of a published one, whose plan and weights take pruning's place.
    ``rounds``: prune and recover so many times, each time a share of the way to the target; or the targets of the
    rounds before the last.
    """

    model: str | None = None
    resume_from: str | None = None
    data: DataSettings = DataSettings()
    device: str = "auto"
    rounds: Annotated[int, Field(ge=1)] | tuple[str, ...] = 1
    prune: PruneSettings = PruneSettings()
    decoder: DecoderSettings | None = None
    recover: RecoverSettings | None = RecoverSettings()
    evaluate: EvaluateSettings | None = EvaluateSettings()
    export: ExportSettings | None = ExportSettings()
    profile: ProfileSettings | None = ProfileSettings()
    verify: VerifySettings | None = None
    handoff: HandoffSettings | None = None

    @model_validator(mode="after")
    def _rounds_of_widths(self) -> Self:
        more_than_widths = self.prune.blocks or self.prune.preset or self.resume_from
        recovers = self.recover is not None and self.recover.steps > 0
        if self.earlier_targets and (more_than_widths or not recovers):
            raise ValueError(
                "rounds prune widths and recover: no blocks, preset or resume_from, and not without recovery"
            )
        return self

    @property
    def earlier_targets(self) -> list[str]:
        """The targets of the rounds before the last."""
        return earlier_targets(self.prune.target, self.rounds)

    def write(self, path: Path) -> None:
        """Write the resolved recipe; ``dtk run`` repeats it."""
        write_text(path, yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False))


def make(values: dict[str, Any], where: str) -> Recipe:
    """A recipe from plain values; a wrong one is a UsageError that names the keys."""
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise UsageError(f"{where} cannot be followed.", found="; ".join(map(_fault, error.errors()))) from error


def _fault(error: ErrorDetails) -> str:
    place = ".".join(map(str, error["loc"]))
    if error["type"] != "extra_forbidden":
        return f"{place}: {error['msg']}"
    settings: Any = Recipe
    for name in error["loc"][:-1]:
        stated = settings.model_fields[str(name)].annotation  # the settings of a stage, or those or None
        settings = next(one for one in (stated, *get_args(stated)) if hasattr(one, "model_fields"))
    return f"{place} is unknown; known are {', '.join(settings.model_fields)}"


def read(path: Path, changes: tuple[str, ...] = ()) -> Recipe:
    """Read a recipe and apply ``changes`` such as ``recover.steps=2000``."""
    try:
        values = _parsed(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DtkError(f"Cannot read the recipe {path}.", found=error, expected="a YAML file") from error
    if not isinstance(values, dict):
        raise UsageError(f"The recipe {path} cannot be followed.", expected="a mapping of stages to settings")
    for change in changes:
        _apply(values, change)
    return make(values, f"The recipe {path}")


def _parsed(text: str) -> Any:
    """A YAML value; whatever cannot be read is a YAMLError."""
    try:
        return yaml.safe_load(text)
    except (RecursionError, ValueError) as error:  # nested too deeply; a number of too many digits
        raise yaml.YAMLError(first_line(error)) from error


def _apply(values: dict[str, Any], change: str) -> None:
    place, equals, text = change.partition("=")
    if not equals:
        raise UsageError(f"Cannot apply {change!r}.", expected="key.subkey=value, such as recover.steps=2000")
    *parents, last = place.split(".")
    for parent in parents:
        inner = values.get(parent)
        values[parent] = dict(inner) if isinstance(inner, dict) else {}
        values = values[parent]
    try:
        values[last] = _parsed(text)
    except yaml.YAMLError as error:
        raise UsageError(f"Cannot read the value in {change!r}.", found=error) from error


LATER = ("evaluate", "export", "profile", "verify", "handoff")
"""The stages behind the model; their own hashes tell whether they are still current."""
FREE = tuple(
    f"recover.{name}"
    for name in (
        *("steps", "checkpoint_every", "keep_checkpoints", "log_every", "track"),
        *("micro_batch_size", "channels_last", "compile"),
    )
) + tuple(f"decoder.{name}" for name in CONTINUED)
"""What may differ and be the same run: how long it runs, how often it reports, what changes memory or rounding only."""


def resolved(recipe: Recipe) -> Recipe:
    """The recipe with local paths made absolute, so that it means the same from every folder."""
    data = recipe.data
    places = {"source": _absolute(data.source), "reference": _absolute(data.reference)}
    models = {"model": _absolute(recipe.model), "resume_from": _absolute(recipe.resume_from)}
    return recipe.model_copy(update={**models, "data": data.model_copy(update=places)})


STORED = re.compile(r"(dense|data)-[0-9a-f]{12}(\.npz)?")
"""The names of a model and data from memory, by their content, in the run folder (toolkit.api.stored)."""


def at_home(recipe: Recipe, folder: Path) -> Recipe:
    """The recipe of the run in ``folder``, which may have been moved: what it holds itself is read there."""

    def place(source: str | None) -> str | None:
        own = folder.resolve() / Path(source or "").name
        return str(own) if STORED.fullmatch(own.name) and own.exists() else source

    data = recipe.data.model_copy(update={"source": place(recipe.data.source)})
    return recipe.model_copy(update={"model": place(recipe.model), "data": data})


def _absolute(source: str | None) -> str | None:
    return str(Path(source).resolve()) if source is not None and Path(source).exists() else source


def kept(requested: Recipe, folder: Path) -> Recipe:
    """What to write into a run folder: ``requested``, and the later stages that its recipe already has."""
    path = folder / "recipe.yaml"
    if not path.is_file():
        return requested
    old = read(path)
    return requested.model_copy(update={s: getattr(old, s) for s in LATER if getattr(requested, s) is None})


def differences(old: Recipe, new: Recipe) -> list[str]:
    """The dotted keys at which two recipes make their model differently, with both values."""
    ignore = {"device", *LATER}
    ignore |= {"decoder"} if old.decoder is None else set()  # one that is added changes nothing that is there
    before, after = (_flat(recipe.model_dump(mode="json", exclude=ignore)) for recipe in (old, new))
    return [
        f"{key}: {before.get(key)} there, {after.get(key)} requested"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and key not in FREE
    ]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
