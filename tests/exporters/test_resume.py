"""What is kept of an interrupted export: calls that took long, by who was called and with what, and whole files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from exporters import resume
from exporters.ladder import Ladder
from exporters.overflow import RangeWatch
from exporters.resume import KeptCalls, is_whole
from exporters.settings import ExportSettings
from tests.exported import specs_of, tiny_model
from toolkit.adapters.inputs import example_inputs
from toolkit.core.files import file_sha256, write_json


class Doubling:
    """Doubles, and notes how often and how large."""

    def __init__(self) -> None:
        self.calls, self.notes = 0, {"layer": 0.0}

    def __call__(self, sample: torch.Tensor, scale: torch.Tensor | None = None) -> torch.Tensor:
        self.calls += 1
        self.notes["layer"] = max(self.notes["layer"], float(sample.abs().max()))
        return 2 * sample if scale is None else scale * sample


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "KEPT_S", -1.0)


@pytest.mark.usefixtures("slow")
def test_a_long_call_is_made_once_and_its_notes_come_back(tmp_path: Path) -> None:
    sample, first = torch.tensor([1.0, -3.0]), Doubling()
    KeptCalls(tmp_path).around("a", first, first.notes)(sample)
    second = Doubling()
    again = KeptCalls(tmp_path).around("a", second, second.notes)
    assert torch.equal(again(sample), 2 * sample) and second.calls == 0
    assert second.notes == {"layer": 3.0}


@pytest.mark.usefixtures("slow")
def test_another_caller_or_input_is_another_call(tmp_path: Path) -> None:
    doubling, sample = Doubling(), torch.ones(2)
    call = KeptCalls(tmp_path).around("a", doubling)
    for one in (call, KeptCalls(tmp_path).around("b", doubling)):
        one(sample)
    for other in (sample + 1, sample.double(), sample[None]):
        call(other)
    call(sample, scale=torch.tensor(3.0))
    assert torch.equal(call(sample, scale=torch.tensor(4.0)), 4 * sample)
    assert doubling.calls == 7


def test_short_calls_and_those_without_a_folder_are_not_kept(tmp_path: Path) -> None:
    doubling, sample = Doubling(), torch.ones(2)
    for call in (KeptCalls(tmp_path).around("a", doubling), KeptCalls(None).around("a", doubling)):
        call(sample), call(sample)
    assert doubling.calls == 4 and not list(tmp_path.iterdir())


def test_a_file_is_whole_if_it_is_what_its_description_says(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    assert not is_whole(path)
    path.write_bytes(b"graph")
    assert not is_whole(path), "the description is written last"
    write_json(path.with_suffix(".json"), {"sha256": {"m.onnx": file_sha256(path), "m.onnx.data": "0"}})
    assert not is_whole(path), "its weights are missing"
    write_json(path.with_suffix(".json"), {"sha256": {"m.onnx": file_sha256(path)}})
    assert is_whole(path)
    path.write_bytes(b"graf")
    assert not is_whole(path)


class Watch:
    """Notes in what batches the reference is called."""

    def __init__(self, *args: Any) -> None:
        self.sizes: list[int] = []
        self.magnitudes: dict[str, float] = {}

    def __call__(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(sample))
        return sample.sin()


@pytest.mark.parametrize(("share", "sizes"), [(100.0, {1, 2, 64, 4}), (40.5, {1, 2, 40, 4}), (1.0, {1, 2})])
def test_of_a_large_model_fewer_images_are_compared(
    monkeypatch: pytest.MonkeyPatch, share: float, sizes: set[int]
) -> None:
    """A budget of ``share`` calls of one image: the largest batch and the loop's images fit it, one image at least."""
    monkeypatch.setattr("exporters.reference.RangeWatch", Watch)
    settings = ExportSettings.model_validate({"batch": "1:8:64", "loop_steps": 10, "loop_images": 4})
    work = Ladder(tiny_model(), settings, "dense").reference.gmacs
    ladder = Ladder(tiny_model(), settings.model_copy(update={"parity_gmacs": share * work}), "dense")
    ladder._climbed(lambda sample, timestep: sample.sin(), "ONNX", "fp32")
    assert set(ladder.reference.watch.sizes) == sizes


def test_the_reference_rounds_no_product(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = []
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    watch = RangeWatch(tiny_model())
    watch._denoiser.register_forward_pre_hook(lambda *_: allowed.append(torch.backends.cudnn.allow_tf32))
    watch(**example_inputs(specs_of(tiny_model()), 1))
    assert allowed == [False] and torch.backends.cudnn.allow_tf32
