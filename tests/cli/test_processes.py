"""Several processes of a launcher recover and evaluate as one does; where all would do the same, they are refused."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file
from typer.testing import CliRunner

from tests import forked
from tests.cli.conftest import dtk as here
from toolkit.cli import app
from toolkit.core.noise import generator

ROOT = Path(__file__).parents[2]
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
PLAIN = ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


@pytest.mark.parametrize("command", ["compress", "run", "export"])
def test_a_launcher_is_refused_where_every_process_would_do_the_same(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = CliRunner().invoke(app, [command, "x"])
    assert done.exit_code == 2
    assert f"dtk {command} runs in one process" in done.output
    assert "accelerate launch -m toolkit recover RUN" in done.output


def launch(*arguments: str) -> None:
    """Two processes of accelerate's own launcher."""
    arguments = (*LAUNCH, *PLAIN, "-m", "toolkit", *arguments)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def fork(command: str, run: Path, *options: str) -> None:
    """Two processes as a launcher starts them: their environment says who they are."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1])}
    place["DTK_CACHE"] = str(run / "dense")  # in the first run's lie the dense model's images
    errors = [run.with_name(f"errors {rank}") for rank in ("0", "1")]
    processes = [
        forked.start(
            [command, run, *options], said, variables=place | {"RANK": said.name[-1], "LOCAL_RANK": said.name[-1]}
        )
        for said in errors
    ]
    for process, said in zip(processes, errors, strict=True):
        process.join(600)
        assert process.exitcode == 0, said.read_text()


@pytest.mark.slow
def test_two_processes_recover_as_one_does(model: Path, data: Path, tmp_path: Path) -> None:
    recipe = {
        "model": str(model),
        "data": {"source": str(data), "holdout": 0.5},
        "device": "cpu",
        "prune": {"target": "macs=0.45", "threshold": 0.5, "calibration_images": 4, "align": 4},
        "recover": None,
        **dict.fromkeys(("evaluate", "export", "profile")),
    }
    path, one, two = tmp_path / "recipe.yaml", tmp_path / "one", tmp_path / "two"
    path.write_text(yaml.safe_dump(recipe))
    assert here("run", path, "-o", one).code == 0
    training = {"steps": 6, "batch_size": 7, "warmup_steps": 1, "log_every": 1, "checkpoint_every": 3}
    training["losses"] = {"noise": 1.0, "distillation": 1.0, "features": 0.01}
    training |= {"sampling_steps": 2, "teacher_steps": 4, "teaching_steps": 4, "trajectories": 64}
    (one / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"recover": training}))
    shutil.copytree(one, two)
    assert here("recover", one).code == 0
    launch("recover", str(two))
    curves = [[json.loads(line) for line in (run / "recover/log.jsonl").read_text().splitlines()] for run in (one, two)]
    assert [line["step"] for line in curves[1]] == list(range(1, 7)), "one process writes the log"
    for key in ("total", *training["losses"]):
        np.testing.assert_allclose([line[key] for line in curves[1]], [line[key] for line in curves[0]], rtol=1e-3)
    taught = [(run / "recover/2-of-4/log.jsonl").read_text().splitlines() for run in (one, two)]
    landings = [[json.loads(line)["landing"] for line in lines] for lines in taught]
    assert len(landings[1]) == 4
    np.testing.assert_allclose(landings[1], landings[0], rtol=5e-3)
    before, after = (load_file(run / "model/unet/diffusion_pytorch_model.safetensors") for run in (one, two))
    for name in before:
        np.testing.assert_allclose(after[name], before[name], rtol=0, atol=1e-3)
    assert json.loads((two / "run.json").read_text())["stages"]["recover"]["processes"] == 2


class Means(torch.nn.Module):
    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(pixels, 4).flatten(1)


@pytest.mark.slow
def test_two_processes_evaluate_as_one_does(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = generator("processes", 0).integers(0, 256, (620, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=pixels)
    torch.jit.script(Means()).save(str(tmp_path / "means.pt"))
    recipe = {
        "model": str(model),
        "data": {"source": str(tmp_path / "data.npz"), "holdout": 0.5},
        "device": "cpu",
        "prune": {"target": "width=0.75", "criterion": "magnitude", "calibration_images": 4, "align": 4},
        **dict.fromkeys(("recover", "evaluate", "export", "profile")),
    }
    path, one, two = tmp_path / "recipe.yaml", tmp_path / "one", tmp_path / "two"
    path.write_text(yaml.safe_dump(recipe))
    assert here("run", path, "-o", one).code == 0
    shutil.copytree(one, two)
    settings = ["--images", "300", "--sampling-steps", "1", "--features", str(tmp_path / "means.pt"), "--controls"]
    monkeypatch.setenv("DTK_CACHE", str(one / "dense"))
    assert here("evaluate", one, *settings).code == 0
    fork("evaluate", two, *settings)
    assert json.loads((two / "run.json").read_text())["stages"]["evaluate"]["processes"] == 2
    shards = [{file.relative_to(run): np.load(file) for file in run.rglob("samples/*/*.npy")} for run in (one, two)]
    assert len(shards[0]) == 2 * 2 * 3, "two shards of each model, of every sampler"
    assert shards[0].keys() == shards[1].keys()
    for name, images in shards[0].items():
        np.testing.assert_array_equal(shards[1][name], images)
    metrics = [json.loads((run / "evaluate/metrics.json").read_text()) for run in (one, two)]
    curves = [found.pop("controls")["curves"] for found in metrics]
    assert metrics[0] == metrics[1]
    of_steps = [[(p["steps"], p["by_sampler"]) for curve in sides.values() for p in curve] for sides in curves]
    assert of_steps[0] == of_steps[1], "but for how long a call took"
