"""Engines of the step graph in a handoff: the run's own and those built elsewhere, each for this graph."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from toolkit.core.errors import DtkError, UsageError
from toolkit.core.files import file_sha256, folder_sha256, read_json, value_sha256, write_json
from toolkit.core.run_folder import RunFolder
from toolkit.handoff.components import Part
from toolkit.handoff.engines import entries, find_engines
from toolkit.handoff.manifest import tolerance
from toolkit.handoff.settings import HandoffSettings
from toolkit.handoff.step_graph import StepGraph
from toolkit.pipeline.handoff import handoff

SHA256 = {"compressed_step.onnx": hashlib.sha256(b"graph").hexdigest()}
GPU = HandoffSettings(device="gpu", runtime="tensorrt")
RTX = {"builder": "tensorrt_rtx", "version": "1.7.1.116", "batch": "1:4:6", "targets": ["sm89", "sm120"], "gpu": None}
DATACENTRE = {"builder": "tensorrt", "version": "11.4.0", "batch": "1:8:8", "targets": [], "gpu": "NVIDIA H200"}


def engine(folder: Path, sha256: dict[str, str] = SHA256, **facts: Any) -> Path:
    """An engine with the description that the export stage writes next to it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "compressed_step.plan"
    path.write_bytes(b"plan" + str(facts).encode())
    known = {"onnx": value_sha256(sorted(sha256.values())), "gpu_capability": None} | RTX | facts
    write_json(path.with_suffix(".json"), {"sha256": file_sha256(path), "facts": known})
    return path


@pytest.fixture
def graph(tmp_path: Path) -> StepGraph:
    return StepGraph(tmp_path / "compressed_step.onnx", {"inputs": {"sample": {"shape": []}}, "sha256": SHA256})


def test_the_runs_own_plan_and_one_of_another_machine_lie_side_by_side(tmp_path: Path, graph: StepGraph) -> None:
    engine(tmp_path / "tensorrt")
    other = engine(tmp_path / "other", **DATACENTRE, gpu_capability="sm90")
    found = find_engines(tmp_path, GPU.model_copy(update={"engines": (other,)}), graph)
    assert [(one.file, one.capabilities, one.largest) for one in found] == [
        ("compressed_step.tensorrt_rtx.sm89.sm120.plan", ["sm89", "sm120"], 6),
        ("compressed_step.tensorrt.sm90.nvidia-h200.plan", ["sm90"], 8),
    ]


def test_engines_for_two_models_of_one_capability_or_for_several_have_names_of_their_own(
    tmp_path: Path, graph: StepGraph
) -> None:
    l4 = {"builder": "tensorrt", "gpu_capability": "sm89", "gpu": "NVIDIA L4", "targets": []}
    built = [
        engine(tmp_path / "l4", **l4),
        engine(tmp_path / "4090", **l4 | {"gpu": "NVIDIA GeForce RTX 4090"}),
        engine(tmp_path / "capability", **l4, hardware_compatible="capability"),
        engine(tmp_path / "ampere", **l4, hardware_compatible="ampere", version_compatible=True, weights="stripped"),
    ]
    found = find_engines(tmp_path, GPU.model_copy(update={"engines": tuple(built)}), graph)
    assert [one.file.removeprefix("compressed_step.tensorrt.") for one in found] == [
        *("sm89.nvidia-l4.plan", "sm89.nvidia-geforce-rtx-4090.plan", "sm89.plan", "ampere.plan")
    ]
    assert [one.entry()["gpu"] for one in found] == ["NVIDIA L4", "NVIDIA GeForce RTX 4090", None, None]
    last = found[-1].entry()
    assert (last["compute_capability"], last["version_compatible"], last["stripped"]) == ([], True, True)


def test_the_decoders_engine_lies_next_to_that_of_the_step_graph(tmp_path: Path, graph: StepGraph) -> None:
    decoder = Part(tmp_path / "decoder.onnx", {"inputs": {"latents": {}}, "sha256": {"decoder.onnx": "1"}})
    engine(tmp_path / "tensorrt")
    other = engine(tmp_path / "other", **DATACENTRE, gpu_capability="sm90")
    settings = GPU.model_copy(update={"engines": (other,)})
    latent = replace(graph, decoder=decoder)
    assert [one.graph for one in find_engines(tmp_path, settings, latent)] == ["compressed_step"] * 2
    for folder, facts in ((tmp_path / "tensorrt", {}), (tmp_path / "other", {**DATACENTRE, "gpu_capability": "sm90"})):
        step = (folder / "compressed_step.plan").read_bytes(), (folder / "compressed_step.json").read_bytes()
        built = engine(folder, sha256={"decoder.onnx": "1"}, **facts)
        for path in (built, built.with_suffix(".json")):
            path.rename(path.with_stem("decoder"))
        (folder / "compressed_step.plan").write_bytes(step[0]), (folder / "compressed_step.json").write_bytes(step[1])
    found = find_engines(tmp_path, settings, latent)
    assert [entry["file"] for entry in entries(found, decoder.path)] == [
        "decoder.tensorrt_rtx.sm89.sm120.plan",
        "decoder.tensorrt.sm90.nvidia-h200.plan",
    ]
    assert len(entries(found, graph.path)) == 2


@pytest.mark.parametrize(("dtype", "requested", "levels"), [("fp16", None, 2), ("bf16", None, 8), ("bf16", 1, 1)])
def test_the_known_image_may_be_off_by_what_the_precision_costs(
    graph: StepGraph, dtype: str, requested: int | None, levels: int
) -> None:
    of_dtype = replace(graph, description=graph.description | {"dtype": dtype})
    assert tolerance(HandoffSettings(tolerance=requested), of_dtype) == levels


def test_without_tensorrt_no_plan_is_looked_for(tmp_path: Path, graph: StepGraph) -> None:
    engine(tmp_path / "tensorrt", sha256={"other": "0"})
    assert find_engines(tmp_path, HandoffSettings(), graph) == []


REFUSALS: dict[str, tuple[dict[str, Any], dict[str, Any], type[DtkError], str]] = {
    "none was built": ({}, {"absent": True}, DtkError, "There is no TensorRT engine.*(\n.*)*dtk export RUN --trt"),
    "another graph": ({}, {"sha256": {"other": "0"}}, DtkError, "is an engine of another graph"),
    "damaged": ({}, {"damaged": True}, DtkError, "is damaged or was changed"),
    "no single image": ({}, {"batch": "2:4:8"}, DtkError, "does not take a single image.*(\n.*)*batch 2:4:8"),
    "on a processor": ({"device": "cpu"}, {}, UsageError, "runs on a GPU.*(\n.*)*--device gpu"),
    "idle engines": (
        {"runtime": "onnxruntime", "engines": (Path("x.plan"),)},
        {},
        UsageError,
        "Only --runtime tensorrt",
    ),
    "twice": ({"engines": "same"}, {}, UsageError, "same builder and architectures"),
    "two versions": ({"engines": "older"}, {}, UsageError, r"different versions.*(\n.*)*1\.6, 1\.7\.1\.116"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_does_not_fit_is_refused_in_words(tmp_path: Path, graph: StepGraph, case: str) -> None:
    changes, facts, error, words = REFUSALS[case]
    absent, damaged = facts.pop("absent", False), facts.pop("damaged", False)
    own = engine(tmp_path / "tensorrt", **facts)
    if absent:
        own.unlink()
    if damaged:
        own.write_bytes(b"another")
    more = {"same": {}, "older": {"version": "1.6", "targets": ["sm75"]}}.get(str(changes.get("engines")))
    if more is not None:
        changes = {"engines": (engine(tmp_path / "more", **more),)}
    with pytest.raises(error, match=words):
        find_engines(tmp_path, GPU.model_copy(update=changes), graph)


@pytest.mark.slow
def test_a_handoff_with_plans_says_what_they_need(exported: RunFolder, tmp_path: Path) -> None:
    run = RunFolder(Path(shutil.copytree(exported.path, tmp_path / "run")))
    sha256 = read_json(run.path / "export" / "onnx" / "compressed_step.json")["sha256"]
    engine(run.path / "tensorrt", sha256=sha256)
    other = engine(tmp_path / "other", sha256=sha256, **DATACENTRE, gpu_capability="sm90")
    limits = {"max_steps": 4, "default_steps": 2, "fallback": "onnxruntime", "engines": (other,)}
    manifest = handoff(run, GPU.model_copy(update=limits))
    folder = run.path / "handoff"
    version = folder / "model_repository" / "sampler" / "1"
    files = [entry["file"] for entry in manifest["step_graph"]["engines"]]
    assert all((version / file).is_file() for file in files) and len(files) == 2
    assert {f"model_repository/sampler/1/{file}" for file in files} <= set(manifest["files"])
    assert manifest["files"] == {name: file_sha256(folder / name) for name in manifest["files"]}
    assert (manifest["step_graph"]["runtime"], manifest["step_graph"]["fallback"]) == ("tensorrt", "onnxruntime")
    assert manifest["compute_capability"] == ["sm120", "sm89", "sm90"]
    assert manifest["limits"]["max_batch"] == 6, "the smallest engine's largest"
    docker = (folder / "Dockerfile").read_text()
    for package in ("onnxruntime-gpu==", "tensorrt-rtx==1.7.1.116", "tensorrt==11.4.0", "cuda-bindings>="):
        assert f'"{package}' in docker
    assert all(file in (folder / "README.md").read_text() for file in files)
    service = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["sampler"]
    assert service["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    pod = next(yaml.safe_load_all((folder / "kubernetes.yaml").read_text()))["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": 1}
    assert "dtk_server/tensorrt_stepper.py" in "".join(folder_sha256(version))
