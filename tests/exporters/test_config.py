"""Settings of the export stage: what is refused, and in which words."""

from __future__ import annotations

import pytest
import yaml

from exporters.settings import BatchRange, ExportSettings
from toolkit.core.errors import UsageError


def test_a_batch_range_reads_as_it_is_written() -> None:
    settings = ExportSettings.model_validate({"batch": "1:8:64"})
    assert settings.batch == BatchRange(min=1, opt=8, max=64)
    assert str(settings.batch) == "1:8:64"
    assert ExportSettings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize("text", ["8", "1:8", "a:b:c", "1:8:64:128", "-1:8:64", ""])
def test_a_batch_range_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"Cannot read the batch range[\s\S]*min:opt:max"):
        ExportSettings.model_validate({"batch": text})


def test_a_batch_range_that_yaml_took_for_a_time_is_refused() -> None:
    with pytest.raises(UsageError, match="put it in quotes"):
        ExportSettings(batch=yaml.safe_load("1:4:8"))


@pytest.mark.parametrize("text", ["8:1:64", "1:64:8"])
def test_a_batch_range_out_of_order_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not in order"):
        ExportSettings.model_validate({"batch": text})


def test_bf16_needs_a_newer_opset() -> None:
    with pytest.raises(UsageError, match=r"opset 21 has no bfloat16 convolution[\s\S]*22 or later"):
        ExportSettings(dtype="bf16", opset=21)
    assert ExportSettings(dtype="bf16", opset=23).opset == 23


@pytest.mark.parametrize("opset", [17, 24])
def test_an_opset_out_of_reach_is_refused(opset: int) -> None:
    with pytest.raises(UsageError, match=f"Cannot export to opset {opset}[\\s\\S]*18 to 23"):
        ExportSettings(opset=opset)
