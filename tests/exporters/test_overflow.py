"""The first layer that overflows is named, and keeping what overflows in float32 helps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler

from exporters.ladder import Ladder
from exporters.overflow import RangeWatch, overflow_error
from exporters.settings import ExportSettings
from tests.exported import specs_of
from tests.tiny import SMALLEST, tiny_folder, tiny_unet
from toolkit.adapters.inputs import example_inputs
from toolkit.core.errors import DtkError, UsageError
from toolkit.core.files import read_json
from toolkit.core.run_folder import RunFolder
from toolkit.models.build import load_denoiser
from toolkit.models.folder import ModelFolder, find_model
from toolkit.models.precision import BorderedDenoiser
from toolkit.pipeline.export import export

LOUD = "down_blocks.0.resnets.0.conv1"  # a norm follows, so float32 computes what it computed before
SETTINGS = ExportSettings(dtype="fp16", batch="1:1:1", loop_steps=2, loop_images=1, longest=2)


def folder_of(unet: torch.nn.Module, path: Path) -> ModelFolder:
    DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=100)).save_pretrained(path)
    return find_model(path)


@pytest.fixture(scope="module")
def loud(tmp_path_factory: pytest.TempPathFactory) -> ModelFolder:
    """A model whose ``LOUD`` computes numbers that fp16 does not have, from weights that it has."""
    unet = tiny_unet(**SMALLEST)
    with torch.no_grad():
        unet.get_submodule(LOUD).weight.mul_(20_000 / unet.get_submodule(LOUD).weight.abs().max())
        unet.get_submodule("down_blocks.0.resnets.0.norm1").weight.fill_(30.0)
    return folder_of(unet, tmp_path_factory.mktemp("loud"))


def watched(folder: ModelFolder) -> RangeWatch:
    watch = RangeWatch(folder)
    watch(**example_inputs(specs_of(folder), 2))
    return watch


def in_half(folder: ModelFolder, keep_fp32: tuple[str, ...] = ()) -> torch.Tensor:
    """The same prediction by torch's own fp16: what a range that float32 tells must agree with."""
    with torch.inference_mode():
        got: torch.Tensor = BorderedDenoiser(load_denoiser(folder), "fp16", keep_fp32)(
            **example_inputs(specs_of(folder), 2)
        )
    return got


def test_the_first_layer_is_named_and_what_is_needed_is_enough(loud: ModelFolder) -> None:
    watch = watched(loud)
    overflow = watch.overflow("fp16")
    assert overflow is not None and overflow.layer == LOUD and 65504 < overflow.magnitude < 1e9
    assert not in_half(loud).isfinite().all()
    assert watch.overflow("fp16", overflow.needed) is None
    assert in_half(loud, overflow.needed).isfinite().all()
    fewer = overflow.needed[:-1]
    assert watch.overflow("fp16", fewer).layer == overflow.needed[-1]  # type: ignore[union-attr]
    assert not in_half(loud, fewer).isfinite().all()


def test_bf16_has_the_range_and_a_quiet_model_needs_none(loud: ModelFolder, tmp_path: Path) -> None:
    assert watched(loud).overflow("bf16") is None
    assert watched(tiny_folder(tmp_path)).overflow("fp16") is None


def test_a_sum_that_overflows_is_told_from_its_parts(tmp_path: Path) -> None:
    unet = tiny_unet()
    with torch.no_grad():
        for part in ("conv2", "conv_shortcut"):
            layer = unet.get_submodule(f"up_blocks.1.resnets.0.{part}")
            layer.weight.zero_()
            layer.bias.fill_(60_000.0)  # each fits, both together do not
    watch = watched(folder := folder_of(unet, tmp_path))
    overflow = watch.overflow("fp16")
    assert overflow is not None and overflow.layer == "up_blocks.1.resnets.0"
    assert in_half(folder, overflow.needed).isfinite().all()


@pytest.mark.parametrize("value", [1e6, 3e38])
def test_weights_beyond_the_range_count_and_float32_has_a_range_too(value: float, tmp_path: Path) -> None:
    unet = tiny_unet()
    with torch.no_grad():
        unet.get_submodule(LOUD).weight.fill_(value)
    overflow = watched(folder_of(unet, tmp_path)).overflow("fp16")
    assert overflow is not None and overflow.layer == LOUD
    assert bool(overflow.needed) == (value < 1e38)
    assert ("--keep-fp32" in str(overflow_error("It", "fp16", overflow, ()))) == (value < 1e38)


def test_a_precision_is_refused_before_anything_is_exported_in_it(loud: ModelFolder, tmp_path: Path) -> None:
    exported: list[str] = []

    class Dry(Ladder):
        """Runs the reference of a rung, and exports nothing."""

        def _export(self, path: Path, dtype: str) -> None:
            exported.append(dtype)

        def _compared(self, path: Path, dtype: str) -> dict[str, Any]:
            self.reference(**example_inputs(self.reference.specs, 2))
            return {}

    with pytest.raises(DtkError, match=f"overflows in fp16: the first layer is {LOUD}"):
        Dry(loud, SETTINGS, "dense").climb(tmp_path / "dense.onnx", lambda: None)
    assert exported == ["fp32"]


@pytest.mark.slow
def test_the_export_names_the_layer_and_its_offer_works(loud: ModelFolder, tmp_path: Path) -> None:
    with pytest.raises(DtkError) as refused:
        Ladder(loud, SETTINGS, "dense", work=tmp_path).climb(tmp_path / "dense.onnx", lambda: None)
    words = str(refused.value)
    assert f"overflows in fp16: the first layer is {LOUD}" in words
    assert "65504" in words and "bf16" in words
    patterns = words.split("--keep-fp32 ")[1].split(" ")[0].split(",")
    wider = SETTINGS.model_copy(update={"keep_fp32": tuple(patterns)})
    parity = Ladder(loud, wider, "dense", work=tmp_path).climb(tmp_path / "dense.onnx", lambda: None)
    assert 0 < read_json(tmp_path / "dense.json")["kept_fp32_share"] < 1
    assert parity["fp16"]["predictions"]["worst"]["relative_error"] < 1e-2


def test_a_pattern_that_names_no_layer_is_refused(loud: ModelFolder, tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"keep_fp32": ("mid_blok.*",)})
    with pytest.raises(UsageError, match="mid_blok.* names no layer"):
        export(RunFolder.create(tmp_path / "run"), settings, loud, loud)
