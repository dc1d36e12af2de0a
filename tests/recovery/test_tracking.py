"""What log.jsonl says goes to a tracker of accelerate's as well, and changes nothing."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, register_tracker_class
from safetensors.torch import load_file

from tests.tiny import tiny_folder
from toolkit.core.errors import MissingToolError, UsageError
from toolkit.core.files import write_json
from toolkit.core.noise import generator
from toolkit.core.run_folder import Request, RunFolder
from toolkit.data.images import Images
from toolkit.pipeline.recover import recover
from toolkit.recovery.settings import RecoverSettings
from toolkit.recovery.tracking import check_tracker

PLAN = {"class": "UNet2DModel", "config": {}, "requested": {"criterion": "random"}, "groups": {}, "tensors": {}}


class Recorder(GeneralTracker):
    """Keeps what it is given."""

    name, requires_logging_directory = "recorder", True
    runs: ClassVar[list[Recorder]] = []

    def __init__(self, project: str, folder: str) -> None:
        super().__init__()
        self.project, self.folder = project, folder
        self.lines: list[dict] = []
        self.config: dict = {}
        self.finished = False
        Recorder.runs.append(self)

    @property
    def tracker(self) -> Recorder:
        return self

    def store_init_configuration(self, values: dict) -> None:
        self.config = values

    def log(self, values: dict, step: int | None = None, **options: object) -> None:
        self.lines.append({"step": step, **values})

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def registered() -> Iterator[None]:
    Recorder.runs.clear()
    register_tracker_class(Recorder)
    yield
    del LOGGER_TYPE_TO_CLASS[Recorder.name]


def weights(root: Path, track: str | None) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """The recovered weights and the lines of the log."""
    pixels = generator("tiny images", 0).integers(0, 256, (20, 8, 8, 3), dtype="uint8")
    images = Images("test", (3, 8, 8), "0" * 64, tuple(range(20)), lambda number: pixels[number])
    dense = tiny_folder(root / "dense")
    run = RunFolder.create(root / "run")
    with run.writing(Request("prune", {}, {})) as prune:
        tiny_folder(prune / "model", seed=1, block_out_channels=(8, 16, 16))
        write_json(prune / "plan.json", PLAN)
    recover(run, RecoverSettings(steps=4, batch_size=4, log_every=2, track=track), dense, images)
    log = [json.loads(line) for line in (run.path / "recover" / "log.jsonl").read_text().splitlines()]
    return load_file(run.path / "model" / "unet" / "diffusion_pytorch_model.safetensors"), log


def test_a_registered_tracker_gets_the_log_and_the_settings(registered: None, tmp_path: Path) -> None:
    plain, _ = weights(tmp_path / "plain", None)
    assert Recorder.runs == []
    tracked, log = weights(tmp_path / "tracked", "recorder")
    (run,) = Recorder.runs
    assert run.lines == log and [line["step"] for line in log] == [2, 4]
    assert (run.project, run.config["batch_size"], run.finished) == ("dtk", "4", True)
    assert Path(run.folder) == tmp_path / "tracked" / "run" / "recover"
    assert all(torch.equal(plain[name], tensor) for name, tensor in tracked.items())


def test_unknown_and_absent_trackers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PartialState, "_shared_state", {})  # as in a process in which nothing was trained yet
    with pytest.raises(UsageError, match=r"Unknown tracker 'notebook'[\s\S]*tensorboard"):
        check_tracker("notebook")
    absent = next(name for name in ("swanlab", "clearml", "aim") if importlib.util.find_spec(name) is None)
    with pytest.raises(MissingToolError, match=f"{absent} is not installed"):
        check_tracker(absent)
