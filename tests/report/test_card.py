"""The model card says what the report says, in the hub's format, and nothing of this machine's folders."""

from __future__ import annotations

from huggingface_hub import ModelCard

from tests.report.example import example
from toolkit.report.card import Identity, card
from toolkit.report.headline import sentence

IDENTITY = Identity("small", "someone/small", "apache-2.0", "unconditional-image-generation", "load it")


def read_back(value: dict) -> tuple[ModelCard, str]:
    text = str(card(value, IDENTITY, picture=True))
    return ModelCard(text), text


def test_the_hub_reads_what_was_measured() -> None:
    value = example() | {"model": "someone/large", "data": "someone/pictures"}
    made, text = read_back(value)
    data = made.data.to_dict()
    assert (data["base_model"], data["license"], data["library_name"]) == ("someone/large", "apache-2.0", "diffusers")
    assert data["pipeline_tag"] == "unconditional-image-generation" and data["datasets"] == "someone/pictures"
    quality = value["stages"]["evaluate"]
    distances = {result.metric_type: result for result in made.data.eval_results}
    assert set(distances) == {"frechet_distance", "kernel_distance", "precision", "recall"}
    distance = quality["frechet_distance"]["compressed"]
    assert distances["frechet_distance"].metric_value == distance["value"]
    assert distances["frechet_distance"].metric_name == f"{distance['metric']}, 1,000 images, ddim, 20 steps"
    for fact in (value["verdict"], value["machine"]["processor"], "| parameters | 1.11 M | 650 k |", "load it"):
        assert fact in text
    assert distance["extractor_sha256"] in text and "card/pairs.png" in text and "\n\n\n\n" not in text


def test_figures_of_an_earlier_model_are_left_out() -> None:
    value = example() | {"stale": ["evaluate"]}
    made, text = read_back(value)
    assert made.data.eval_results is None and "Quality:" not in text
    assert sentence({name: found for name, found in value["stages"].items() if name != "evaluate"}) in text


def test_folders_of_this_machine_are_not_named() -> None:
    _, text = read_back(example() | {"model": "/home/someone/large", "data": "/home/someone/pictures"})
    assert "/home" not in text and "This is large, pruned" in text and "pictures" in text
    assert "base_model" not in text and "datasets" not in text


def test_a_run_that_was_only_pruned_has_a_card() -> None:
    _, text = read_back(example("prune"))
    assert "not trained after pruning" in text and "quality was not evaluated" in text
