"""The model card of a run in the hub's format: what the model is, what was measured and where, how to load it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import StrictUndefined, Template

from toolkit.report import words
from toolkit.report.headline import Fact, facts, sentence

TEMPLATE = Path(__file__).parent / "card.md.j2"
PLAN, PICTURE = "card/plan.json", "card/pairs.png"
DISTANCES = ("frechet_distance", "kernel_distance", "precision", "recall")


@dataclass(frozen=True)
class Identity:
    """What a card says that no stage found: the model's name, where it can be loaded from, its licence, how it opens.

    ``task`` is the hub's name of what the model does, ``loading`` Python that opens it.
    """

    name: str
    place: str
    licence: str | None
    task: str
    loading: str


def card(value: dict[str, Any], identity: Identity, *, picture: bool) -> ModelCard:
    """The card for the value of RUN/report.json; figures of an earlier model of the run are left out."""
    stages = {name: figures for name, figures in value["stages"].items() if name not in value["stale"]}
    plan = stages["prune"]
    template = Template(TEMPLATE.read_text(encoding="utf-8"), trim_blocks=True, undefined=StrictUndefined)
    text = template.render(
        name=identity.name,
        place=identity.place,
        loading=identity.loading,
        verdict=sentence(stages),
        base=public_name(value["model"]),
        reference=public_name(value["data"]),
        criterion=plan["requested"]["criterion"],
        class_name=plan["class"],
        steps=stages.get("recover", {}).get("steps"),
        facts=[_row(fact, {**value, "stages": stages}) for fact in facts(stages)],
        quality=stages.get("evaluate"),
        machines=[(words.places(machine), ran) for machine, ran in words.machines(value)],
        versions=value["versions"],
        picture=PICTURE if picture else None,
        plan=PLAN,
    )
    return ModelCard(f"---\n{_data(value, stages, identity)}\n---\n\n{text}\n")


def _data(value: dict[str, Any], stages: dict[str, Any], identity: Identity) -> ModelCardData:
    base, data = value["model"], value["data"]
    return ModelCardData(
        model_name=identity.name,
        base_model=base if _on_the_hub(base) else None,
        datasets=data if _on_the_hub(data) else None,
        license=identity.licence,
        library_name="diffusers",
        pipeline_tag=identity.task,
        tags=["pruning", "dtk"],
        eval_results=_results(stages["evaluate"], public_name(data), identity.task) if "evaluate" in stages else None,
    )


def _results(evaluation: dict[str, Any], data: str, task: str) -> list[EvalResult]:
    sampled = f"{evaluation['settings']['sampler']}, {evaluation['settings']['sampling_steps']} steps"
    compressed = {name: evaluation[name]["compressed"] for name in DISTANCES if name in evaluation}
    return [
        EvalResult(
            task_type=task,
            dataset_type=data,
            dataset_name=data,
            metric_type=name,
            metric_name=f"{measured['metric']}, {measured['count']:,} images, {sampled}",
            metric_value=measured["value"],
        )
        for name, measured in compressed.items()
    ]


def _row(fact: Fact, value: dict[str, Any]) -> tuple[str, str, str]:
    def written(place: tuple[str, ...] | None) -> str:
        exact: Any = reduce(lambda inner, key: inner[key], place or (), value)
        return f"{getattr(words, fact.style)(exact)} {fact.unit}".strip()

    return fact.name, written(fact.before), written(fact.after)


def _on_the_hub(source: str) -> bool:
    return "/" in source and not Path(source).is_absolute() and not Path(source).exists()


def public_name(source: str) -> str:
    """A source without the folders of this machine."""
    return Path(source).name if Path(source).is_absolute() else source
