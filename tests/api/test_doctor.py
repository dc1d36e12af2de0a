"""The doctor sees what is wrong, says it in words, and does not cry wolf."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tests.architecture.source import ROOT
from tests.cli.conftest import dtk
from toolkit.api import attempts, doctor
from toolkit.api.results import Diagnosis
from toolkit.core.errors import DtkError, MissingToolError
from toolkit.runners import tensorrt_api
from toolkit.runners.base import known_runners


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Pretend that exactly these packages are installed: name -> (version, requirements)."""

    def pretend(**packages: tuple[str, list[str]]) -> None:
        known = {name.replace("_", "-"): facts for name, facts in packages.items()}

        def requires(name: str) -> list[str]:
            if name not in known:
                raise PackageNotFoundError(name)
            return known[name][1]

        monkeypatch.setattr(doctor, "requires", requires)
        monkeypatch.setattr(doctor, "installed_version", lambda name: known.get(name, (None,))[0])

    return pretend


def conflicts() -> dict[str, str]:
    return {one.name: one.found for one in doctor.requirements() if one.status == "conflict"}


def test_this_environment_fits_and_torch_and_onnxruntime_really_run() -> None:
    found = doctor.doctor().to_json()
    assert [one for one in found["findings"] if one["status"] == "conflict"] == []
    assert found["ok"]
    assert list(found["runners"]["cpu"]) == known_runners()
    assert found["runners"]["cpu"]["torch"] is found["runners"]["cpu"]["onnxruntime"] is None
    assert "NVIDIA GPU" in found["runners"]["cpu"]["tensorrt"]


def test_a_package_that_is_too_new_or_absent_is_a_conflict(installed: Callable[..., None]) -> None:
    installed(
        optimum_onnx=("0.1.0", ["transformers<4.58.0,>=4.36", "diffusers<=0.39", "onnx"]),
        transformers=("5.1.0", []),
        diffusers=("0.38.0", []),
    )
    assert conflicts() == {
        "optimum-onnx 0.1.0": "it needs transformers<4.58.0,>=4.36, and 5.1.0 is installed; "
        "it needs onnx, which is not installed"
    }


def test_requirements_of_other_systems_and_unused_extras_do_not_count(installed: Callable[..., None]) -> None:
    installed(torch=("2.13.0", ["pywin32; sys_platform == 'nowhere'", "optree>=9; extra == 'optree'"]))
    assert conflicts() == {}


def test_an_extra_of_dtk_binds_what_is_installed(installed: Callable[..., None]) -> None:
    extras = ["onnxruntime>=1.24; extra == 'cpu'", "tensorrt<12,>=10.0; extra == 'gpu'"]
    installed(dtk=("0.1.0", extras), onnxruntime=("1.9.0", []))
    assert conflicts() == {"dtk 0.1.0": "it needs onnxruntime>=1.24, and 1.9.0 is installed"}


@pytest.mark.parametrize(
    ("there", "status", "said"),
    [
        ({"onnxruntime": ("1.31.1", [])}, "fits", "onnxruntime 1.31.1"),
        ({"onnxruntime_gpu": ("1.31.0", [])}, "fits", "onnxruntime-gpu 1.31.0"),
        ({}, "note", "not installed"),
        (
            {"onnxruntime": ("1.31.1", []), "onnxruntime_gpu": ("1.31.0", [])},
            "conflict",
            "onnxruntime 1.31.1 and onnxruntime-gpu 1.31.0 overwrite each other",
        ),
    ],
    ids=["cpu", "gpu", "none", "both"],
)
def test_the_two_onnxruntimes_exclude_each_other(
    installed: Callable[..., None], there: dict, status: str, said: str
) -> None:
    installed(**there)
    (found,) = doctor.same_files()
    assert (found.status, found.found) == (status, said)
    assert (found.do is None) == (status == "fits")


def test_a_cuda_build_without_a_device_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (found,) = doctor.torch_and_gpu()
    assert (found.status, found.found) == ("note", "torch was built for CUDA 13.0, and sees no device")
    assert "driver" in (found.do or "")


def test_a_gpu_that_torch_was_not_built_for_is_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for name, value in {
        "is_available": True,
        "get_device_name": "Tesla K80",
        "get_device_capability": (3, 7),
        "get_arch_list": ["sm_80", "sm_90"],
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(doctor, "try_torch", lambda device: f"a convolution failed on {device}: no kernel image")
    (found,) = doctor.torch_and_gpu()
    assert found.status == "conflict"
    assert "Tesla K80 (sm_37)" in found.found and "no kernel image" in found.found
    assert "sm_80, sm_90" in (found.do or "")


def test_onnxruntime_s_tensorrt_provider_wants_tensorrt_10(
    installed: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Module:
        __version__ = "11.0.0.1"

    monkeypatch.setattr(doctor, "load_tensorrt", lambda: tensorrt_api.TensorRT(Module, rtx=False))
    monkeypatch.setattr(doctor, "try_build", lambda api: None)
    installed(onnxruntime_gpu=("1.31.0", []))
    assert [(one.name, one.status) for one in doctor.tensorrt()] == [
        ("TensorRT", "fits"),
        ("TensorRT in ONNX Runtime", "note"),
    ]
    Module.__version__ = "10.9"
    assert [one.name for one in doctor.tensorrt()] == ["TensorRT"]


def test_no_tensorrt_is_a_note_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise MissingToolError("No TensorRT can work here.", found="tensorrt: not there")

    monkeypatch.setattr(doctor, "load_tensorrt", absent)
    (found,) = doctor.tensorrt()
    assert found.status == "note" and "tensorrt: not there" in found.found


def test_tensorrt_is_tried_for_real() -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")
    (found,) = doctor.tensorrt()
    assert found.status == "fits" and found.found.endswith("builds an engine")


def test_a_tensorrt_that_imports_and_builds_nothing_is_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(logger: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    api = tensorrt_api.TensorRT(SimpleNamespace(__version__="10.14", ILogger=object, Builder=refuses), rtx=False)  # type: ignore[arg-type]
    monkeypatch.setattr(doctor, "load_tensorrt", lambda: api)
    (found,) = doctor.tensorrt()
    assert found.status == "conflict" and "tensorrt 10.14 builds no engine: pybind11" in found.found
    assert "CUDA" in (found.do or "")


def test_an_engine_that_this_gpu_refuses_would_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorRT for RTX imports and builds on GPUs that it does not support."""
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed")

    def refused(plan: Path, *, device: str) -> None:
        assert plan.stat().st_size > 0 and device == "cuda"
        raise DtkError("tensorrt_rtx 1.7.1 refuses the plan on this GPU.")

    monkeypatch.setattr(attempts, "TensorRTRunner", refused)
    zeros, ones = torch.zeros, torch.ones
    for name, make in (("zeros", zeros), ("ones", ones)):
        monkeypatch.setattr(torch, name, lambda *size, device=None, make=make, **options: make(*size, **options))
    assert "refuses the plan on this GPU" in (attempts.ATTEMPTS["tensorrt"]("cuda") or "")


def test_a_provider_that_is_built_in_but_does_not_load_would_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def falls_back(*args: object, **options: object) -> None:
        raise DtkError("ONNX Runtime fell back on CPUExecutionProvider.", expected="CUDAExecutionProvider")

    monkeypatch.setattr(attempts, "OnnxRuntimeRunner", falls_back)
    assert "fell back" in (doctor.runners()["cpu"]["onnxruntime"] or "")


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_the_command_says_it_and_its_exit_code_too(monkeypatch: pytest.MonkeyPatch, ok: bool, code: int) -> None:
    finding = {"name": "ONNX Runtime", "status": "fits" if ok else "conflict", "found": "both [cpu]", "do": None}
    found = {"ok": ok, "findings": [finding], "runners": {"cpu": {"torch": None, "compile": "no compiler"}}}
    monkeypatch.setattr(doctor, "doctor", lambda: Diagnosis(found))
    answer = dtk("doctor", "--json")
    assert (answer.code, json.loads(answer.out)) == (code, found)
    told = dtk("doctor")
    assert told.code == code
    assert "both [cpu]" in told.out and "no: no compiler" in told.out
    assert ("CONFLICT" in told.out) == (not ok)


@pytest.mark.slow
def test_a_real_second_onnxruntime_is_seen_by_the_real_command(tmp_path: Path) -> None:
    """Metadata as pip leaves it, in a folder of its own on the path."""
    metadata = tmp_path / "onnxruntime_gpu-1.31.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.31.0\nRequires-Dist: numpy<1\n")
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    command = [sys.executable, "-m", "toolkit", "doctor", "--json"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    wrong = {one["name"]: one["found"] for one in json.loads(done.stdout)["findings"] if one["status"] == "conflict"}
    assert "it needs numpy<1" in wrong.pop("onnxruntime-gpu 1.31.0")
    assert "overwrite each other" in wrong.pop("ONNX Runtime")
    assert wrong == {}
