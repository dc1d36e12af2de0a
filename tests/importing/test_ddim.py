"""Checkpoints of the DDIM code base become pipelines that compute the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import DDPMPipeline
from typer.testing import CliRunner

from tests.importing.ddim_network import State, forward, random_state
from toolkit.cli import app
from toolkit.core.errors import DtkError
from toolkit.core.noise import normal
from toolkit.importing.convert import convert
from toolkit.models.folder import find_model
from toolkit.models.schedulers import load_scheduler

MULTIPLES, LAYERS, ATTENDS = (1, 2, 2), 2, 1


@pytest.fixture(scope="module")
def state() -> State:
    return random_state(32, MULTIPLES, LAYERS, ATTENDS)


def predict(state: State, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return forward(state, x, t, len(MULTIPLES), LAYERS)


def saved(path: Path, value: object) -> Path:
    torch.save(value, path)
    return path


def parallel(state: State, plus: float = 0.0) -> State:
    """As DataParallel names it, and other weights than the average by ``plus``."""
    return {f"module.{name}": tensor + plus for name, tensor in state.items()}


OPTIMISER = {"state": {0: {"step": 7, "exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]}
FILES = {
    "plain state dict": lambda state: state,
    "list of states with an average": lambda state: [parallel(state, 1.0), OPTIMISER, 3, 700, state],
    "list of states without one": lambda state: [parallel(state), OPTIMISER, 3, 700],
    "state_dict in a mapping": lambda state: {"state_dict": state, "global_step": 3},
    "half precision": lambda state: {name: tensor.double() for name, tensor in state.items()},
}


@pytest.mark.parametrize("kind", FILES)
def test_the_pipeline_computes_what_the_original_does(kind: str, state: State, tmp_path: Path) -> None:
    made = convert(saved(tmp_path / "model.ckpt", FILES[kind](state)), tmp_path / "model")
    assert made["layout"] == "DDIM" and made["sample_size"] == 32 and made["class"] == "UNet2DModel"
    unet = DDPMPipeline.from_pretrained(tmp_path / "model").unet.eval()
    x, t = torch.from_numpy(normal("x", 0, shape=(2, 3, 32, 32))), torch.tensor([3, 970])
    with torch.no_grad():
        expected, got = predict(state, x, t), unet(x, t).sample
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def test_the_trained_weights_are_had_on_demand(state: State, tmp_path: Path) -> None:
    path = saved(tmp_path / "ckpt.pth", [parallel(state, 1.0), OPTIMISER, 3, 700, state])
    convert(path, tmp_path / "model", weights="plain")
    unet = DDPMPipeline.from_pretrained(tmp_path / "model").unet
    assert torch.equal(unet.conv_in.weight, state["conv_in.weight"] + 1)


def test_the_schedule_is_that_of_the_paper(state: State, tmp_path: Path) -> None:
    convert(saved(tmp_path / "model.ckpt", state), tmp_path / "model")
    scheduler = load_scheduler(find_model(tmp_path / "model"))
    torch.testing.assert_close(scheduler.betas.double(), torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
    assert scheduler.config.prediction_type == "epsilon" and scheduler.config.variance_type == "fixed_large"


def test_the_command_says_what_it_made_and_the_result_can_be_planned(state: State, tmp_path: Path) -> None:
    path = saved(tmp_path / "model.ckpt", state)
    found = CliRunner().invoke(app, ["import", str(path), "-o", str(tmp_path / "model"), "--size", "16", "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["sample_size"] == 16
    planned = CliRunner().invoke(
        app, ["compress", str(tmp_path / "model"), "--target", "width=1", "--dry-run", "--json"]
    )
    assert planned.exit_code == 0, planned.output
    assert json.loads(planned.stdout)["achieved"]["params"] == sum(tensor.numel() for tensor in state.values())
    refused = CliRunner().invoke(app, ["import", str(path), "-o", str(tmp_path / "other"), "--weights", "both"])
    assert refused.exit_code == 2 and "ema, plain" in refused.output


class Code:
    """Unpickling this would run a function of the file's choice."""

    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("this must never run",))


def without(state: State, name: str) -> State:
    return {key: tensor for key, tensor in state.items() if key != name}


BAD = {
    "needs code": (lambda s: {**s, "extra": Code()}, r"holds more than tensors[\s\S]*save model.state_dict\(\)"),
    "unknown layout": (lambda s: {"features.0.weight": torch.ones(2)}, r"does not know the layout[\s\S]*features\.0"),
    "no tensors": (lambda s: {"epoch": 3}, r"holds no tensors by name"),
    "missing tensor": (
        lambda s: without(s, "mid.attn_1.q.bias"),
        r"does not fit.*\n.*missing mid_block.attentions.0.to_q",
    ),
    "pruned tensor by tensor": (
        lambda s: {**s, "mid.attn_1.q.bias": s["mid.attn_1.q.bias"][:17]},
        r"to_q\.bias \(17,\) for \(64,\)[\s\S]*not pruned tensor by tensor",
    ),
    "NaN": (
        lambda s: {**s, "conv_in.bias": s["conv_in.bias"] * torch.nan},
        r"conv_in\.bias of the checkpoint holds NaN",
    ),
    "size unknown": (
        lambda s: {k: v for k, v in s.items() if ".attn." not in k},
        r"do not say what size of image[\s\S]*--size",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_imported_is_refused_in_words(kind: str, state: State, tmp_path: Path) -> None:
    change, words = BAD[kind]
    with pytest.raises(DtkError, match=words):
        convert(saved(tmp_path / "model.ckpt", change(state)), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_file_that_is_no_checkpoint_and_a_target_that_is_taken_are_refused(state: State, tmp_path: Path) -> None:
    (tmp_path / "noise.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(DtkError, match="is no checkpoint of torch, or is damaged"):
        convert(tmp_path / "noise.ckpt", tmp_path / "model")
    with pytest.raises(DtkError, match="No such checkpoint"):
        convert(tmp_path / "nothing.ckpt", tmp_path / "model")
    with pytest.raises(DtkError, match="is already there"):
        convert(saved(tmp_path / "model.ckpt", state), tmp_path)
