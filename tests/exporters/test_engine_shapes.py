"""One engine for a range of batches, and on request one for each of its shapes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from exporters import engine_exporter, engines
from exporters.base import NAMES, Exported
from exporters.engine_exporter import batch_ranges, wanted
from exporters.settings import BatchRange, EngineSettings, ExportSettings
from toolkit.core.errors import UsageError
from toolkit.core.files import write_json
from toolkit.core.progress import silent
from toolkit.core.run_folder import RunFolder
from toolkit.diffusion.step_loop import STEP
from toolkit.pipeline.export import _further
from toolkit.runners import tensorrt_api
from toolkit.runners.tensorrt_api import TensorRT

ALONE = EngineSettings(one_per_shape=True)


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        ("1:8:64", {"": "1:8:64", "-b1": "1:1:1", "-b8": "8:8:8", "-b64": "64:64:64"}),
        ("4:4:4", {"": "4:4:4", "-b4": "4:4:4"}),
    ],
)
def test_a_range_and_each_of_its_shapes(batch: str, expected: dict[str, str]) -> None:
    settings = ExportSettings.model_validate({"batch": batch})
    assert {name: str(found) for name, found in batch_ranges(settings).items()} == {"": batch}
    settings = settings.model_copy(update={"engine": ALONE})
    assert {name: str(found) for name, found in batch_ranges(settings).items()} == expected


class Entry:
    """An engine as the cache gives it, with a memory of what was found out about it."""

    reason = None

    def __init__(self, folder: Path, **facts: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.plan, self.layers, self.description = folder / "engine.plan", folder / "layers.json", dict(facts)
        self.plan.write_bytes(b"plan")
        write_json(self.layers, [])

    def finding(self, name: str, find: Any) -> Any:
        return self.description.setdefault(name, find())


SETTINGS = ExportSettings.model_validate({"batch": "1:2:4"})
SAMPLE = {"inputs": {"sample": {"shape": ["batch", 4, 8, 8]}}}
ONNX: dict[str, Any] = {n: {"file": f"{n}.onnx", "sha256": {}, "dtype": "fp32"} | SAMPLE for n in (*NAMES, STEP)}
AROUND: dict[str, Any] = {
    "decoder": {"inputs": {"latents": {"shape": ["batch", 4, "height", "width"]}}, "outputs": {"images": {}}},
    "encoder": {"inputs": {"images": {"shape": ["batch", 3, "height", "width"]}}, "outputs": {"latents": {}}},
    "conditioner": {"inputs": {"input_ids": {"shape": ["batch", 10]}}, "outputs": {"encoder_hidden_states": {}}},
}
LATENT = ONNX | {name: {"file": f"{name}.onnx", "sha256": {}, "dtype": "fp32"} | one for name, one in AROUND.items()}


def built(
    monkeypatch: pytest.MonkeyPatch, run: RunFolder, settings: ExportSettings, models: Any, onnx: Any = ONNX
) -> Any:
    def build(api: Any, path: Path, description: Any, settings: ExportSettings, progress: Any, items: Any) -> Entry:
        facts = {"onnx": path.name, "batch": str(settings.batch), "items": dict(items)}
        return Entry(run.path / "kept" / f"{path.stem}-{settings.batch}", **facts)

    monkeypatch.setattr(engine_exporter, "build_engine", build)
    monkeypatch.setattr(engine_exporter, "load_tensorrt", lambda: TensorRT(tensorrt_api, rtx=True))
    monkeypatch.setattr(TensorRT, "version", "1")
    return _further(run, engine_exporter.EXPORTER, Exported(run.path, onnx, models, settings), silent)


def test_with_a_gpu_engines_are_held_against_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Rung:
        def __init__(self, model: Any, settings: ExportSettings, name: str, *, device: str) -> None:
            assert device == "cuda", "the reference computes where the engine does"
            self.told = f"{model.sha256} {settings.batch} {name}"

        def engine(self, plan: Path, onnx: Path) -> str:
            return f"{self.told} {onnx.name}"

    def around(model: Any, name: str, plan: Path, onnx: Path, settings: ExportSettings) -> str:
        return f"{model.sha256} {settings.batch} {name} {onnx.name}"

    monkeypatch.setattr(engine_exporter, "Ladder", Rung)
    monkeypatch.setattr(engine_exporter, "hold_engine", around)
    for module in (engine_exporter, engines):
        monkeypatch.setattr(module, "has_gpu", lambda: True)
    models: Any = {name: SimpleNamespace(sha256=f"model {name}") for name in NAMES}
    found = built(monkeypatch, RunFolder.create(tmp_path), SETTINGS, models, LATENT)
    assert {name: entry.get("parity") for name, entry in found.items()} == {
        **{name: f"model {name} 1:2:4 {name} {name}.onnx" for name in NAMES},
        **{name: f"model compressed 1:2:4 {name} {name}.onnx" for name in ("decoder", "conditioner")},
        STEP: None,
    }
    assert all((tmp_path / "tensorrt" / f"{name}.layers.json").is_file() for name in found)


def test_decoder_and_text_encoder_have_engines_for_the_models_own_sides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS.model_copy(update={"batch": BatchRange(min=2, opt=4, max=4)})
    found = built(monkeypatch, RunFolder.create(tmp_path), settings, {}, LATENT)
    assert set(found) == {*NAMES, STEP, "decoder", "conditioner"}, "no server encodes images"
    assert (found["decoder"]["batch"], found["decoder"]["items"]) == ("1:4:4", {"latents": [4, 8, 8]})
    assert (found["conditioner"]["batch"], found["conditioner"]["items"]) == ("1:4:4", {})
    classes = {
        "conditioner": {"inputs": {"class_labels": {"shape": ["batch"]}}, "outputs": {"encoder_hidden_states": {}}}
    }
    assert "conditioner" not in [one.name for one in wanted(Exported(tmp_path, ONNX | classes, {}, SETTINGS))]


def test_every_shape_has_its_plan_and_the_command_that_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS.model_copy(update={"engine": ALONE})
    found = built(monkeypatch, RunFolder.create(tmp_path), settings, {})
    assert {name: (entry["onnx"], entry["batch"]) for name, entry in found.items()} == {
        f"{name}{ending}": (f"{name}.onnx", batch)
        for name in NAMES
        for ending, batch in {"": "1:2:4", "-b1": "1:1:1", "-b2": "2:2:2", "-b4": "4:4:4"}.items()
    } | {STEP: (f"{STEP}.onnx", "1:2:4")}
    assert all((tmp_path / entry["file"]).read_bytes() == b"plan" for entry in found.values())
    words = found["dense-b2"]["command"]
    assert {"--onnx=dense.onnx", "--saveEngine=tensorrt/dense-b2.plan", "--minShapes=sample:2x4x8x8"} <= set(words)


def test_kernel_timings_are_kept_in_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DTK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(TensorRT, "version", "1")
    timed = engines.timings(TensorRT(tensorrt_api, rtx=False))
    timed.parent.mkdir(parents=True)
    timed.write_bytes(b"timings")
    found = built(monkeypatch, RunFolder.create(tmp_path / "run"), SETTINGS, {})
    assert (tmp_path / "run" / "tensorrt" / "timing.cache").read_bytes() == b"timings"
    assert "--timingCacheFile=tensorrt/timing.cache" in found["dense"]["command"]


def test_bfloat16_for_a_t4_is_refused_before_anything_is_exported() -> None:
    engine = EngineSettings(compute_capability=("sm75",))
    with pytest.raises(UsageError, match="has no bfloat16"):
        engine_exporter.EXPORTER.check({}, ExportSettings(dtype="bf16", opset=22, engine=engine))
