"""docs/commands.md is what the help texts say, and the defaults that they state are the recipe's."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from pydantic import BaseModel
from typer.main import get_command

from exporters.settings import EngineSettings, ExportSettings
from profiles.settings import ProfileSettings, Rounds
from tests.architecture.source import ROOT
from toolkit.cli import app
from toolkit.evaluation.settings import EvaluateSettings, VerifySettings
from toolkit.handoff.settings import HandoffSettings, ServeSettings
from toolkit.pipeline.decoder_settings import DecoderSettings
from toolkit.pipeline.recipe import Recipe
from toolkit.pruning.settings import LatencySettings, PruneSettings
from toolkit.recovery.settings import RecoverSettings

GROUP: Any = get_command(app)
SETTINGS: dict[str, list[type[BaseModel]]] = {
    "compress": [PruneSettings, RecoverSettings, LatencySettings, DecoderSettings, Recipe],
    "sweep": [PruneSettings, RecoverSettings, LatencySettings, EvaluateSettings],
    "recover": [RecoverSettings],
    "evaluate": [EvaluateSettings],
    "export": [ExportSettings, EngineSettings],
    "profile": [ProfileSettings, Rounds],
    "verify": [VerifySettings],
    "handoff": [HandoffSettings],
    "serve": [ServeSettings],
}
ALIASES = {
    "decoder_steps": "steps",
    "runner": "runners",
    "batch": "batches",
    "ready_timeout": "ready_timeout_s",
    "evaluation_steps": "sampling_steps",
}
COMPUTED = {
    ("handoff", "default_steps"),
    ("profile", "device"),
    ("compress", "calibration_batch_size"),
    ("compress", "score_timesteps"),
    ("compress", "build_budget_s"),
    ("verify", "artefact"),
    ("verify", "images"),
}


def options() -> Iterator[tuple[str, click.Option]]:
    for name, command in GROUP.commands.items():
        yield from ((name, option) for option in command.params if option.param_type_name == "option")


def test_the_page_is_current(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "typer", "toolkit.cli", "utils", "docs", "--name", "dtk", "--output"]
    subprocess.run([*command, tmp_path / "commands.md"], cwd=ROOT, check=True, capture_output=True)
    written, page = (folder / "commands.md" for folder in (tmp_path, ROOT / "docs"))
    assert page.read_text(encoding="utf-8") == written.read_text(encoding="utf-8"), "run `make commands`"


def test_every_command_and_option_has_help() -> None:
    bare = [name for name, command in GROUP.commands.items() if not (command.help or "").strip()]
    bare += [f"{name} --{option.name}" for name, option in options() if not (option.help or "").strip()]
    assert not bare


@pytest.mark.parametrize("command", SETTINGS)
def test_stated_defaults_are_the_recipes(command: str) -> None:
    wrong = []
    for name, option in options():
        stated = option.show_default
        if name != command or not isinstance(stated, str) or (name, option.name) in COMPUTED:
            continue
        names = (option.name, ALIASES.get(option.name or ""))
        fields = [s.model_fields[n].default for s in SETTINGS[command] for n in names if n in s.model_fields]
        if stated not in map(shown, fields):
            wrong.append(f"{option.name}: stated {stated}, found {[*map(shown, fields)]}")
    assert not wrong


def shown(value: Any) -> str:
    """A default as a user would type it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, BaseModel):
        return ":".join(str(number) for number in value.model_dump().values())
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_every_stage_of_a_recipe_is_looked_at() -> None:
    stages = set(Recipe.model_fields) & set(GROUP.commands) | {"compress"}
    assert stages <= set(SETTINGS)
