"""``dtk verify``: one line for a log, and an exit code for each answer."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import dtk


@pytest.mark.slow
def test_the_command_ends_with_the_answer_in_one_line_and_its_code(compressed: Path, tmp_path: Path) -> None:
    run = shutil.copytree(compressed, tmp_path / "run")
    options = ["verify", run, "--artefact", "torch", "--images", 20, "--margin", "50%"]
    answer = dtk(*options, "--json")
    assert answer.code == {"pass": 0, "fail": 1, "inconclusive": 3}[answer.json["verdict"]]
    again = dtk(*options)
    assert again.code == answer.code
    assert re.search(
        rf"^verify: {answer.json['verdict'].upper()}: torch:fp32, .*, limit 1.5; KD .*, 20 pairs,", again.out, re.M
    )


def test_what_was_not_exported_cannot_be_verified(compressed: Path) -> None:
    answer = dtk("verify", compressed)
    assert answer.code == 2
    assert "onnxruntime was not exported" in answer.err and "exported: nothing" in answer.err
