"""The configuration, read back by protocol buffers' own parser with Triton's own schema."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig, ModelInstanceGroup, ModelQueuePolicy

from toolkit.handoff.settings import HandoffSettings
from toolkit.handoff.step_graph import StepGraph
from toolkit.handoff.triton import Enum, configuration, dumps


def graph(classes: int | None = None, channels: int = 3) -> StepGraph:
    inputs = {"sample": {"shape": ["batch", channels, 8, 8], "dtype": "float32"}}
    return StepGraph(Path("step.onnx"), {"inputs": inputs, "classes": classes, "sha256": {}})


def parsed(graph: StepGraph, settings: HandoffSettings, max_batch: int = 8) -> ModelConfig:
    return text_format.Parse(dumps(configuration(graph, settings, max_batch)), ModelConfig())


def test_inputs_and_outputs_follow_the_graph() -> None:
    config = parsed(graph(classes=10), HandoffSettings())
    assert [(field.name, field.data_type, list(field.dims), field.optional) for field in config.input] == [
        ("SEED", DataType.TYPE_UINT64, [1], False),
        ("STEPS", DataType.TYPE_INT32, [1], True),
        ("CLASS", DataType.TYPE_INT64, [1], False),
    ]
    assert [(field.name, list(field.dims)) for field in config.output] == [("IMAGE", [3, 8, 8]), ("PNG", [1])]


def test_an_image_of_four_channels_has_no_png() -> None:
    assert [field.name for field in parsed(graph(channels=4), HandoffSettings()).output] == ["IMAGE"]


def test_limits_and_instances_follow_the_settings() -> None:
    settings = HandoffSettings(
        device="gpu", instances=3, threads=5, max_queue_size=7, queue_timeout_ms=250, queue_delay_ms=1.5
    )
    config = parsed(graph(), settings, max_batch=16)
    policy = config.dynamic_batching.default_queue_policy
    assert config.max_batch_size == 16 and list(config.dynamic_batching.preferred_batch_size) == [16]
    assert (config.instance_group[0].count, config.instance_group[0].kind) == (3, ModelInstanceGroup.KIND_GPU)
    assert config.parameters["threads"].string_value == "5"
    assert config.dynamic_batching.max_queue_delay_microseconds == 1500
    assert (policy.max_queue_size, policy.default_timeout_microseconds) == (7, 250_000)
    assert policy.timeout_action == ModelQueuePolicy.REJECT
    assert [warm.batch_size for warm in config.model_warmup] == [1, 16]


def test_without_batching_requests_are_not_merged() -> None:
    assert not parsed(graph(), HandoffSettings(dynamic_batching=False)).HasField("dynamic_batching")


@pytest.mark.parametrize("text", ['a "quote"', "back\\slash", "line\nbreak", "ümlaut"])
def test_any_text_survives(text: str) -> None:
    config = text_format.Parse(dumps({"name": text, "backend": Enum('"python"')}), ModelConfig())
    assert config.name == text
