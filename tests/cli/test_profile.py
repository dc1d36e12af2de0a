"""``dtk profile`` on the command line: conditions, other models, other runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import dtk, with_a_short_loop
from tests.tiny import PLAIN, tiny_folder
from toolkit.core.files import write_json
from toolkit.report import tables

pytestmark = pytest.mark.slow
TORCH = ("--runner", "torch", "--baseline", "torch", "--batch", "1,2", "--seconds", "0.1")


@pytest.fixture(scope="module")
def profiled(compressed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a profile; tests that change it work on a copy."""
    run = with_a_short_loop(shutil.copytree(compressed, tmp_path_factory.mktemp("runs") / "run"))
    answer = dtk("profile", run, *TORCH)
    assert answer.code == 0, answer.err
    return run


@pytest.mark.parametrize(
    ("limit", "code"), [("torch@2.latency_ms>1e6", 0), ("torch@2.latency_ms<1e6", 4), ("torch.memory<1e9", 4)]
)
def test_a_condition_decides_the_exit_code(profiled: Path, limit: str, code: int) -> None:
    answer = dtk("profile", profiled, *TORCH, "--json", "--fail-if", "torch@1.latency_ms>1e6", "--fail-if", limit)
    assert answer.code == code, answer.err
    assert json.loads(answer.out)["runners"]["torch"], "the figures are told all the same"
    assert (limit in answer.err) == (code == 4)


@pytest.mark.parametrize(
    ("condition", "said"),
    [
        ("torch@2.speed<1", "Unknown figure 'speed'"),
        ("compile@2.speedup<1", "--runner with compile in it"),
        ("torch@64.speedup<1", "--batch with 64 in it"),
        ("distance>1", "no finished evaluate stage"),
    ],
)
def test_what_cannot_be_decided_is_refused_before_measuring(profiled: Path, condition: str, said: str) -> None:
    before = (profiled / "profile" / "profile.json").stat().st_mtime_ns
    answer = dtk("profile", profiled, *TORCH, "--fail-if", condition)
    assert answer.code in (1, 2)
    assert said in answer.err
    assert (profiled / "profile" / "profile.json").stat().st_mtime_ns == before


def test_against_another_stock_model_leaves_the_run_s_own_profile_alone(profiled: Path, tmp_path: Path) -> None:
    wider = tiny_folder(tmp_path / "wider", **PLAIN | {"block_out_channels": (32, 64)}).root
    own = (profiled / "profile" / "profile.json").read_bytes()
    answer = dtk("profile", profiled, *TORCH, "--against", wider, "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert found["against"] == str(wider)
    dense, compressed = (found["models"][name]["params"] for name in ("dense", "compressed"))
    assert dense > 2 * json.loads(own)["models"]["dense"]["params"]
    assert compressed == json.loads(own)["models"]["compressed"]["params"]
    assert (profiled / "profile" / "profile.json").read_bytes() == own
    assert next(tables.profile(found)) == f"Instead of the dense model: {wider}"


def test_against_a_model_of_other_images_is_refused(profiled: Path, tmp_path: Path) -> None:
    larger = tiny_folder(tmp_path / "larger", sample_size=16).root
    answer = dtk("profile", profiled, "--against", larger)
    assert answer.code == 1
    assert "images of another shape" in answer.err and "(3, 16, 16) and (3, 8, 8)" in answer.err


def test_runs_side_by_side_and_not_across_machines(profiled: Path, tmp_path: Path) -> None:
    other = shutil.copytree(profiled, tmp_path / "other")
    answer = dtk("profile", profiled, other)
    assert answer.code == 0, answer.err
    assert str(other) in answer.out and "not interleaved" in answer.out
    path = other / "profile" / "profile.json"
    changed = json.loads(path.read_text())
    changed["machine"]["processor"] = "Another CPU"
    write_json(path, changed)
    refused = dtk("profile", profiled, other)
    assert refused.code == 1
    assert "--across-machines" in refused.err
    labelled = dtk("profile", profiled, other, "--across-machines")
    assert labelled.code == 0
    assert "Another CPU" in labelled.out and "different machines" in labelled.out


def test_runs_that_are_compared_are_not_measured(profiled: Path) -> None:
    answer = dtk("profile", profiled, profiled, "--batch", "1")
    assert answer.code == 2
    assert "not measured" in answer.err
