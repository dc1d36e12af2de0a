"""The public signatures: typed, without anonymous dictionaries, and with exactly the options that the settings have."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from pydantic import BaseModel

import toolkit
from exporters.settings import EngineSettings, ExportSettings
from profiles.settings import ProfileSettings, Rounds
from toolkit.api import options, results
from toolkit.evaluation.settings import EvaluateSettings, VerifySettings
from toolkit.handoff.settings import HandoffSettings, ServeSettings
from toolkit.pipeline.options import MEASURING
from toolkit.pruning.settings import PruneSettings
from toolkit.recovery.settings import RecoverSettings

OPTIONS: dict[Any, type[BaseModel]] = {
    options.RecoverOptions: RecoverSettings,
    options.EvaluateOptions: EvaluateSettings,
    options.VerifyOptions: VerifySettings,
    options.EngineOptions: EngineSettings,
    options.ExportOptions: ExportSettings,
    options.RoundOptions: Rounds,
    options.ProfileOptions: ProfileSettings,
    options.HandoffOptions: HandoffSettings,
    options.ServeOptions: ServeSettings,
}


def public() -> dict[str, Any]:
    """Every public function, and every public method and property of Run and the results, by name."""
    found = {name: getattr(toolkit, name) for name in toolkit.__all__}
    classes = [found.pop("Run"), *(c for c in vars(results).values() if inspect.isclass(c))]
    found.pop("DtkError")
    for owner in classes:
        if not owner.__module__.startswith("toolkit."):
            continue
        members = {n: getattr(m, "fget", m) for n, m in vars(owner).items() if not n.startswith("_")}
        found |= {f"{owner.__name__}.{name}": member for name, member in members.items() if inspect.isfunction(member)}
    return found


def test_no_public_signature_has_an_anonymous_dictionary() -> None:
    members = public()
    assert len(members) > 40
    assert not [n for n, m in members.items() if "dict[str, Any]" in str(m.__annotations__)]


def test_every_public_member_says_what_it_does() -> None:
    plain = {"Profile.runners", "Profile.batches", "Known.names", "PlanSummary.dense", "Report.page"}
    assert not [n for n, m in public().items() if not inspect.getdoc(m) and n not in plain]


@pytest.mark.parametrize("typed", OPTIONS, ids=lambda typed: typed.__name__)
def test_the_options_are_those_of_the_settings(typed: Any) -> None:
    assert set(typed.__annotations__) == set(OPTIONS[typed].model_fields)


def test_the_options_of_pruning_are_its_settings_and_how_a_latency_is_measured() -> None:
    settings = set(PruneSettings.model_fields) - {"latency"}
    assert set(options.PruneOptions.__annotations__) == settings | set(MEASURING)
