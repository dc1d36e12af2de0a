"""OpenVINO: its precisions, its cache, and files that it cannot read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import openvino
import pytest
import torch
from onnx import TensorProto, helper, save

from exporters.onnx import export_onnx
from tests.exported import exported, specs_of, tiny_model
from tests.tiny import SMALLEST, tiny_folder
from toolkit.adapters.inputs import example_inputs
from toolkit.core.errors import DtkError, MissingToolError
from toolkit.models.build import load_denoiser
from toolkit.runners import openvino as openvino_runner
from toolkit.runners.base import open_runner
from toolkit.runners.openvino import OpenVINORunner

INPUTS = example_inputs(specs_of(tiny_model()), 2)
SIGNALLED = """
import faulthandler, os, signal, sys
from pathlib import Path
from toolkit.handoff.dtk_server.openvino_graph import OpenVINOGraph
from toolkit.runners.openvino import OpenVINORunner
faulthandler.enable()
signal.signal(signal.SIGINT, lambda *_: print("heard"))
makers = {"runner": OpenVINORunner, "graph": lambda path: OpenVINOGraph(path, threads=1)}
first, second = (makers[sys.argv[1]](Path(sys.argv[2])) for _ in range(2))
first = None
second = None
os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DTK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_bfloat16_is_rounded_to_the_order_that_torch_rounds_it() -> None:
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor has neither AMX nor AVX512-BF16")
    exact, half = (OpenVINORunner(exported(), dtype=dtype)(**INPUTS) for dtype in ("fp32", "bf16"))
    assert half.dtype == torch.float32
    of_torch = open_runner("torch", tiny_model(), dtype="bf16")(**INPUTS) - exact
    assert 0.1 * of_torch.norm() < (half - exact).norm() < 10 * of_torch.norm()  # 4.4 times on an AMD EPYC


@pytest.mark.slow
def test_models_that_differ_in_weights_alone_do_not_share_a_cached_compilation(tmp_path: Path, cache: Path) -> None:
    for seed in (0, 1):
        folder = tiny_folder(tmp_path / f"model {seed}", seed, **SMALLEST)
        export_onnx(load_denoiser(folder), specs_of(folder), tmp_path / f"{seed}.onnx", dtype="fp32", opset=21)
        expected = open_runner("torch", folder)(**INPUTS)
        for _ in ("compiled", "from the cache"):
            found = OpenVINORunner(tmp_path / f"{seed}.onnx")(**INPUTS)
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert len(list((cache / "openvino").iterdir())) == 2


@pytest.mark.slow
@pytest.mark.parametrize("maker", ["runner", "graph"])
def test_a_signal_is_heard_after_the_first_of_two_is_gone(maker: str) -> None:
    command = [sys.executable, "-c", SIGNALLED, maker, str(exported())]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "heard\n"), done.stderr


def test_a_processor_without_bfloat16_is_named_not_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("openvino.Core.get_property", lambda self, device, name: ["FP32", "INT8"])
    with pytest.raises(MissingToolError, match=r"cannot compute in bf16[\s\S]*FP32, INT8[\s\S]*expected: fp32"):
        OpenVINORunner(exported(), dtype="bf16")
    with pytest.raises(MissingToolError, match="cannot compute in fp16"):
        OpenVINORunner(exported(), dtype="fp16")


def test_a_file_that_is_no_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(exported().read_bytes()[:1000])
    with pytest.raises(DtkError, match=r"OpenVINO cannot convert .*broken\.onnx"):
        OpenVINORunner(path)


@pytest.mark.parametrize(("operator", "domain"), [("Det", ""), ("Frobnicate", "own")])
def test_an_operator_that_it_cannot_convert_is_named(operator: str, domain: str, tmp_path: Path) -> None:
    borders = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 3]) for name in ("sample", "prediction")]
    node = helper.make_node(operator, ["sample"], ["prediction"], domain=domain)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("own", 1)]
    graph = helper.make_graph([node], "graph", borders[:1], borders[1:])
    save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "odd.onnx")
    with pytest.raises(DtkError, match=rf"cannot convert[\s\S]*found: .*fully converted.*{operator}"):
        OpenVINORunner(tmp_path / "odd.onnx")


@pytest.mark.parametrize(
    ("place", "name", "answer", "words"),
    [
        ("find_spec", "openvino", None, r"openvino is not installed: pip install .*\[openvino\]"),
        ("installed_version", "openvino", "2025.1.0", r"openvino 2025\.1\.0 is installed, dtk needs 2026\.4 or later"),
    ],
)
def test_a_package_that_is_absent_or_too_old_is_said(
    place: str, name: str, answer: object, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino_runner, place, lambda asked: answer if asked == name else None)
    with pytest.raises(MissingToolError, match=words):
        open_runner("openvino", exported())


def test_inputs_the_file_does_not_have_are_refused() -> None:
    with pytest.raises(DtkError, match=r"takes other inputs[\s\S]*sample, timestep"):
        OpenVINORunner(exported())(**INPUTS, class_labels=torch.zeros(2, dtype=torch.int64))
