"""The CIFAR-10 study at toy size: every step runs, resumes, and says what it did not measure."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from diffusers import DDPMPipeline, UNet2DModel
from PIL import Image
from typer.testing import CliRunner

from benchmarks.cifar10 import curve, latency, weights
from benchmarks.cifar10.__main__ import app, legs
from benchmarks.cifar10.features import CifarResNet
from benchmarks.cifar10.images import sheet_images
from benchmarks.cifar10.pieces import Pieces
from benchmarks.cifar10.rows import ROWS, dense_recipe, recipe
from benchmarks.cifar10.shapes import SHAPES, write_shape
from tests.evaluation import cifar_resnet
from toolkit.cli.terminal import terminal
from toolkit.core.files import write_json
from toolkit.core.noise import generator
from toolkit.pipeline import recipe as recipes


def study(*arguments: object) -> str:
    answer = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert answer.exit_code == 0, (answer.output, answer.exception)
    return answer.output


def sheets(folder: Path) -> np.ndarray:
    """Two sheets of 2 x 10 images; returns those of the training sheet."""
    folder.mkdir()
    images = generator("sheets", 0).integers(0, 256, (2, 20, 32, 32, 3), dtype=np.uint8)
    for split, own in zip(("train", "test"), images, strict=True):
        sheet = own.reshape(2, 10, 32, 32, 3).swapaxes(1, 2).reshape(64, 320, 3)
        Image.fromarray(sheet).save(folder / f"{split}-00.webp", lossless=True)
    np.savez(folder / "labels.npz", train_labels=np.arange(20) % 10, test_labels=np.arange(20) % 10)
    return images[0]


def resnet(path: Path) -> CifarResNet:
    """ResNet-56 with random weights in the published file's layout."""
    network = CifarResNet(56).eval()
    state = {f"module.{n}": t for n, t in network.state_dict().items() if n not in ("mean", "std")}
    torch.save({"state_dict": state | {"module.linear.weight": torch.zeros(10, 64)}}, path)
    return network


def test_sheets_hold_their_images_in_order(tmp_path: Path) -> None:
    images = sheets(tmp_path / "images")
    assert np.array_equal(sheet_images(tmp_path / "images" / "train-00.webp"), images)


def test_another_layout_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (33, 32)).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="33x32: not a sheet"):
        sheet_images(tmp_path / "x.png")


def test_the_features_are_those_of_the_published_network(tmp_path: Path) -> None:
    network, pixels = resnet(tmp_path / "weights.th"), torch.rand(3, 3, 32, 32) * 255
    other = cifar_resnet.load(str(tmp_path / "weights.th"), 56)
    with torch.no_grad():
        torch.testing.assert_close(network(pixels), other(pixels))
        torch.testing.assert_close(torch.jit.script(network)(pixels), other(pixels))


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_the_published_ones(name: str) -> None:
    kind, config = SHAPES[name]
    with torch.device("meta"):
        params = sum(parameter.numel() for parameter in kind(**config).parameters())
    published = {"cifar10-32": 35_746_307, "lsun-256": 113_673_219, "ldm4-64": 400_920_000}
    assert params == pytest.approx(published[name], rel=0 if kind is UNet2DModel else 1e-4)


def test_every_runner_at_hand_is_asked_on_the_device_it_would_run_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for name in ("toolkit.runners.tensorrt.unavailable", "toolkit.runners.compiled.unavailable"):
        monkeypatch.setattr(name, lambda device: None)
    assert "cudagraph" in latency.at_hand("bf16", "cuda") and latency.at_hand("bf16", "cpu") == []


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("toy", [True, False])
def test_rows_are_recipes(name: str, toy: bool, tmp_path: Path) -> None:
    values = recipe(name, tmp_path, tmp_path, tmp_path / "f.pt", steps=3, seed=1, toy=toy, on_gpu=not toy)
    made = recipes.make(values, name)
    assert made.recover is not None and made.recover.steps == 3
    assert made.prune.seed == made.recover.seed == 1


def test_shards_carry_the_weights_in_half_precision(tmp_path: Path) -> None:
    model = write_shape("cifar10-32", tmp_path / "model", toy=True)
    paths = weights.pack(model, tmp_path / "shards", shard_bytes=100_000)
    assert len(paths) > 2
    back = weights.unpack(tmp_path / "shards", tmp_path / "back")
    one, other = (DDPMPipeline.from_pretrained(folder).unet.state_dict() for folder in (model, back))
    assert one.keys() == other.keys()
    assert all(torch.equal(other[name], one[name].half().float()) for name in one)
    paths[1].unlink()
    with pytest.raises(SystemExit, match=rf"{len(paths) - 1} of {len(paths)} shards"):
        weights.unpack(tmp_path / "shards", tmp_path / "again")


def test_a_command_that_fails_ends_the_study() -> None:
    pieces = Pieces(1)
    pieces.dtk("--version")
    with pytest.raises(SystemExit, match="2"):
        pieces.dtk("no-such-command")


def test_a_command_is_stopped_when_the_minutes_are_up(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = typer.Typer()

    @endless.command()
    def recover() -> None:
        with terminal():
            while True:
                time.sleep(0.01)

    monkeypatch.setattr("benchmarks.cifar10.pieces.app", endless)
    before = signal.getsignal(signal.SIGALRM)
    for minutes in (0.001, 0):
        with pytest.raises(SystemExit, match="75"):
            Pieces(minutes).dtk()
    assert signal.getsignal(signal.SIGALRM) is before


def test_a_ctrl_c_is_not_the_end_of_the_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted = typer.Typer()

    @interrupted.command()
    def recover() -> None:
        with terminal():
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("benchmarks.cifar10.pieces.app", interrupted)
    with pytest.raises(SystemExit, match="130"):
        Pieces(1).dtk()


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    lines = study("table", "--results", tmp_path).splitlines()
    assert sum("not measured" in line for line in lines) == len(ROWS) + len(SHAPES) + len(
        ("dense", "scoring", "recovery")
    )


@pytest.mark.parametrize(
    ("steps", "every", "done", "judged"),
    [(5, 2, 0, [2, 4, 5]), (4, 2, 0, [2, 4]), (1, 2, 0, [1]), (5, 2, 2, [2, 4, 5]), (5, 2, 4, [4, 5]), (5, 2, 5, [5])],
)
def test_training_is_judged_on_its_way_and_at_its_end(steps: int, every: int, done: int, judged: list[int]) -> None:
    assert legs(steps, every, done) == judged


def test_a_point_is_of_what_was_judged_though_training_went_on(tmp_path: Path) -> None:
    """The log runs ahead of the model that a finished training left and an evaluation judged."""
    write_json(tmp_path / "run.json", {"stages": {"recover": {"result": {"steps": 2}}}})
    lines = [{"step": step, "noise": 1.0 / step, "images_per_s": 8.0} for step in (1, 2, 3)]
    (tmp_path / "recover").mkdir()
    (tmp_path / "recover" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_json(
        tmp_path / "evaluate" / "metrics.json", {"frechet_distance": {"compressed": {"value": 7.0, "count": 12}}}
    )
    found = curve.point(tmp_path)
    assert (found["steps"], found["noise_loss"], found["distance"]) == (2, 0.75, 7.0)
    assert curve.steps_done(tmp_path / "none") == 0


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("on_gpu", [True, False])
def test_the_dense_training_is_a_recipe(fresh: bool, on_gpu: bool, tmp_path: Path) -> None:
    sort = {"fresh": fresh, "toy": False, "compiled": on_gpu, "on_gpu": on_gpu}
    made = recipes.make(dense_recipe(tmp_path, tmp_path, tmp_path / "f.pt", steps=3, **sort), "dense")
    assert made.recover is not None
    fast = (made.recover.mixed_precision == "bf16", made.recover.channels_last, made.recover.compile)
    assert fast == (on_gpu,) * 3


@pytest.mark.slow
def test_the_study_at_toy_size(tmp_path: Path) -> None:
    work, results = ["--work", tmp_path / "work", "--toy", "--minutes", 30], ["--results", tmp_path / "results"]
    sheets(tmp_path / "images")
    resnet(tmp_path / "weights.th")
    assert "20 images to train on, 20 to judge by" in study(
        "prepare", tmp_path / "images", tmp_path / "weights.th", *work[:3]
    )
    stopped = CliRunner().invoke(app, [str(a) for a in ("dense", "--steps", 1, *work, *results, "--minutes", 0)])
    assert stopped.exit_code == 75 and "the same command continues" in stopped.output
    for _ in range(2):  # the same command again leaves what is there
        study("dense", "--steps", 2, "--every", 1, *work, *results)
    found = json.loads((tmp_path / "results" / "cifar10-dense.json").read_text())
    assert [point["steps"] for point in found["points"]] == [1, 2] and found["toy"]
    assert all(np.isfinite(point["distance"]) and point["images_per_s"] > 0 for point in found["points"])
    study("pack", tmp_path / "shards", "--work", tmp_path / "work")
    for name in ("diff-pruning-0.05", "dtk-macs0.25"):
        study("row", name, "--steps", 1, *work, *results)
        found = json.loads((tmp_path / "results" / f"cifar10-row-{name}-seed0.json").read_text())
        assert found["toy"] and found["evaluate"]["frechet_distance"]["compressed"]["count"] == 12
        assert found["evaluate"]["frechet_distance"]["compressed"]["extractor"].startswith("ResNet-56")
    study("latency", "cifar10-32", *work, *results)
    study("costs", *work[:3], *results)
    told = study("table", *results)
    assert "| 2 (toy) |" in told
    assert "| cifar10-32 (toy) | fp32 | onnxruntime | 2 |" in told
    assert "| cifar10-32 (toy) | fp32 | onnxruntime | 2, loop of 2 |" in told
    assert "| diff-pruning-0.05 | 1 (toy) | 1 |" in told
    assert "| scoring | bf16 | 4 |" in told and "| recovery | noise | 4 |" in told
