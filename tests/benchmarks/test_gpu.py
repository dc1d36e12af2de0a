"""The first half hour on a GPU, rehearsed without one: pieces are kept, go on, fail alone and end in a table."""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from benchmarks.cifar10.latency import DEFAULT
from benchmarks.cifar10.pieces import MORE
from benchmarks.cifar10.shapes import SHAPES
from benchmarks.gpu import pieces, process, table
from benchmarks.gpu.__main__ import app
from benchmarks.gpu.pack import pack
from benchmarks.gpu.pieces import Piece, Study, file_of, numbered
from benchmarks.gpu.thin import MAGIC, thin
from tests import forked
from tests.tiny import SMALLEST, tiny_folder
from toolkit.core.files import read_json
from toolkit.core.noise import generator

SKIPPED = ("fp16-onnxruntime", "bf16", "bf16-compile", "tensorrt", "trt86")


def command(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Three pieces, of which the second fails and the third is stopped once; what was run."""
    ran: list[str] = []

    def ended(command: list[str], log: Path, limit_s: float) -> int:
        number = int(command[command.index("piece") + 1])
        ran.append(few_pieces[number].name)
        log.write_text("[x] 50 %\n" + ('{"found": 1}' if number != 2 else "CUDA error: an illegal memory access"))
        return {1: 0, 2: 134, 3: MORE if ran.count("third") == 1 else 0}[number]

    few_pieces = {n: Piece(name, lambda study: {}) for n, name in enumerate(("first", "second", "third"), start=1)}
    monkeypatch.setattr("benchmarks.gpu.__main__.numbered", lambda: few_pieces)
    monkeypatch.setattr(table, "numbered", lambda: few_pieces)
    monkeypatch.setattr(process, "ended", ended)
    return ran


def test_pieces_are_kept_as_they_come_and_the_same_command_goes_on(few: list[str], tmp_path: Path) -> None:
    places = ["--work", tmp_path / "work", "--results", tmp_path / "results"]
    stopped = command("run", *places)
    assert stopped.exit_code == MORE and "the same command continues" in stopped.output
    assert read_json(tmp_path / "results" / "gpu-01-first.json")["found"] == 1
    failed = read_json(tmp_path / "results" / "gpu-02-second.json")
    assert (failed["failed"], failed["log"][-1]) == (134, "CUDA error: an illegal memory access")
    finished = command("run", *places)
    assert finished.exit_code == 0 and few == ["first", "second", "third", "third"]
    assert "2. second: failed (134): CUDA error: an illegal memory access" in finished.output
    command("run", 2, *places)
    assert few[-1] == "second", "a piece that is named is run again"


def test_a_process_that_does_not_end_in_time_goes_on_another_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "GRACE_S", 0.2)
    deaf = (
        "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    for program, limit_s, code in (("raise SystemExit(3)", 60, 3), (deaf, 0.2, MORE)):
        assert process.ended([sys.executable, "-c", program], tmp_path / "log", limit_s) == code


def test_without_minutes_nothing_is_begun(few: list[str], tmp_path: Path) -> None:
    answer = command("run", "--work", tmp_path / "work", "--results", tmp_path / "results", "--minutes", 0)
    assert answer.exit_code == MORE and few == []


def fat_binary(*entries: tuple[int, int, bytes]) -> bytes:
    """A fat binary of (kind, architecture, body) entries, as CUDA's linker lays it out."""
    bodies = b"".join(
        struct.pack("<HHIQ12xI32x", kind, 0x101, 64, len(body), architecture) + body
        for kind, architecture, body in entries
    )
    return MAGIC + struct.pack("<HHQ", 1, 16, len(bodies)) + bodies


def test_a_library_keeps_the_code_of_one_gpu(tmp_path: Path) -> None:
    several = fat_binary((1, 86, b"ptx-old!"), (2, 80, b"code of 80.."), (2, 90, b"code of 90.."))
    without = fat_binary((1, 86, b"ptx-only"), (2, 80, b"code of 80.."))  # compiled by the driver, which needs the PTX
    endless, too_long = fat_binary((2, 90, b"code")), fat_binary((2, 90, b"code"), (2, 80, b"code of 80.."))
    endless = endless[:20] + bytes(12) + endless[32:]  # an entry of no size
    too_long = too_long[:-68] + struct.pack("<Q", 1000) + too_long[-60:]  # a body beyond the end
    odd = MAGIC + b"no fat binary" + endless + too_long
    library = b"\x7fELF" + several + odd + without + b"the end" + MAGIC
    path = tmp_path / "library.so"
    path.write_bytes(library)
    assert thin(path, 90) == 8 + 12
    expected = library.replace(several, several.replace(b"ptx-old!", bytes(8)).replace(b"code of 80..", bytes(12)))
    assert path.read_bytes() == expected
    path.write_bytes(library)
    assert thin(path, 75) == 0 and path.read_bytes() == library


def test_every_piece_is_numbered_once_and_open_at_first(tmp_path: Path) -> None:
    names = [piece.name for piece in numbered().values()]
    assert len(names) == len(set(names)) and names[:2] == ["doctor", "tests"]
    assert file_of("doctor") == "gpu-01-doctor"
    told = command("list", "--results", tmp_path).output.splitlines()
    assert len(told) == len(names) and all(line.endswith("open") for line in told)
    assert command("table", "--results", tmp_path).output.count("not run") == len(names)


@pytest.mark.skipif(shutil.which("zstd") is None, reason="the command zstd packs the parts")
def test_parts_are_small_and_join_to_what_was_packed(tmp_path: Path) -> None:
    source, out, site = tmp_path / "data", tmp_path / "parts", tmp_path / "site"
    source.mkdir()
    content = generator("parts", 0).bytes(1_000_000)
    (source / "library.so").write_bytes(content)
    pack(str(source), out, 300_000)
    parts = sorted(out.glob("part-*"))
    assert len(parts) > 1 and all(part.stat().st_size <= 300_000 for part in parts)
    join = [sys.executable, str(out / "unpack.py"), str(site)]
    subprocess.run(join, check=True, capture_output=True)
    assert (site / "library.so").read_bytes() == content
    parts[1].write_bytes(b"damaged")
    damaged = subprocess.run(join, capture_output=True, text=True)
    assert damaged.returncode != 0 and "part-01 is damaged" in damaged.stderr
    parts[1].unlink()
    missing = subprocess.run(join, capture_output=True, text=True)
    assert f"part-01 of {len(parts)} parts is missing" in missing.stderr


def piece_here(command: list[str], log: Path, limit_s: float) -> int:
    """``process.ended`` without the process."""
    answer = CliRunner().invoke(app, command[3:])
    fault = traceback.format_exception(answer.exception) if answer.exception else []
    log.write_text(answer.output + "".join(fault))
    return answer.exit_code


def assert_tensorrt_8_reads(path: Path) -> None:
    """The graph has only what TensorRT 8.6 takes; that it computes what torch does, the piece itself has checked."""
    model = onnx.load(path)
    kinds = {node.op_type for node in model.graph.node}
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [17]
    assert "LayerNormalization" in kinds and not kinds & {"InstanceNormalization", "GroupNormalization"}
    sides = {value.name: value.type.tensor_type for value in model.graph.input}
    assert set(sides) == set(np.load(path.with_name("inputs.npz")))
    assert sides["timestep"].elem_type == onnx.TensorProto.INT32
    assert all(dim.dim_value for side in sides.values() for dim in side.shape.dim), "fixed shapes"


@pytest.mark.slow
def test_all_pieces_at_toy_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "ended", piece_here)
    monkeypatch.setattr("benchmarks.gpu.pieces.subprocess", forked.Interpreters)
    default = tiny_folder(tmp_path / "default", in_channels=1, out_channels=1, **SMALLEST).root
    monkeypatch.setattr("toolkit.models.folder.DEFAULT_MODEL", default)
    places = ["--work", tmp_path / "work", "--results", tmp_path / "results", "--toy"]
    answer = command("run", *places, "--minutes", 60)
    assert answer.exit_code == 0, (answer.output, answer.exception)
    found = {piece.name: read_json(tmp_path / "results" / f"{piece.file(n)}.json") for n, piece in numbered().items()}
    assert not {name: record["log"] for name, record in found.items() if "failed" in record}
    assert found["doctor"]["doctor"]["runners"]["cpu"]["torch"] is None
    for name, record in found.items():
        if name.endswith("-fp32"):
            assert set(record["profile"]["runners"]) == {"torch", "onnxruntime"} and record["toy"]
        elif name.endswith(SKIPPED) or name.startswith("train-"):
            assert record["skipped"]
    for shape in (DEFAULT, *SHAPES):
        assert "equal to torch" in found[f"{shape}-trt86"]["skipped"]
        for model in ("dense", "compressed"):
            assert_tensorrt_8_reads(tmp_path / "work" / "trt86" / shape / "2" / f"{model}.onnx")
    assert "| ldm4-64 (toy) | fp32 | onnxruntime | 2 |" in answer.output
    assert command("run", *places, "--minutes", 60).exit_code == 0, "there is nothing left to do"


def test_training_without_its_data_says_how_to_prepare_it(tmp_path: Path) -> None:
    found = pieces.train("dense", Study(tmp_path, tmp_path, 1.0, toy=True))
    assert "benchmarks.cifar10 prepare" in found["skipped"]
