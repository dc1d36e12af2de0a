"""Recovery is exact: the same weights however it is interrupted, split or batched."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.tiny import ONE_BLOCK, SMALLEST, tiny_folder
from toolkit.core.errors import DtkError, UsageError
from toolkit.core.files import write_json
from toolkit.core.noise import generator
from toolkit.core.run_folder import Request, RunFolder
from toolkit.data.images import Images
from toolkit.data.memory import open_examples
from toolkit.models.build import load_denoiser
from toolkit.models.folder import ModelFolder
from toolkit.pipeline.recover import recover
from toolkit.recovery import loop
from toolkit.recovery.batches import Batches, order
from toolkit.recovery.prepare import make_accelerator, optimiser
from toolkit.recovery.settings import RecoverSettings
from toolkit.recovery.state import State, remove_others, restore, save_checkpoint

WEIGHTS = Path("model/unet/diffusion_pytorch_model.safetensors")
PLAN = {
    "class": "UNet2DModel",
    "config": {},
    "requested": {"criterion": "random"},
    "groups": {},
    "tensors": {},
}  # no features to compare: distillation alone
SETTINGS = {"steps": 12, "batch_size": 8, "warmup_steps": 2, "checkpoint_every": 4, "log_every": 1, "flip": True}


def tiny_images(count: int = 40) -> Images:
    pixels = generator("tiny images", 0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
    return Images("test", (3, 8, 8), "0" * 64, tuple(range(count)), lambda number: pixels[number])


@pytest.fixture
def run(tmp_path: Path) -> tuple[RunFolder, ModelFolder]:
    """A run whose prune stage has finished, and its dense model. What counts here is what recovery does with it."""
    return started(tmp_path, tiny_folder(tmp_path / "dense", **SMALLEST), **SMALLEST | {"block_out_channels": (8,)})


def started(path: Path, dense: ModelFolder, **pruned: object) -> tuple[RunFolder, ModelFolder]:
    folder = RunFolder.create(path / "run")
    with folder.writing(Request("prune", {}, {})) as prune:
        tiny_folder(prune / "model", seed=1, **pruned)
        write_json(prune / "plan.json", PLAN)
    return folder, dense


def again(source: RunFolder, target: Path) -> RunFolder:
    import shutil

    shutil.copytree(source.path, target)
    return RunFolder.create(target)


def weights(run: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(run.path / WEIGHTS)


def log_of(run: RunFolder) -> list[dict]:
    """The log without how fast it went."""
    lines = (run.path / "recover" / "log.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key != "images_per_s"} for line in lines]


@pytest.mark.slow
def test_resumed_weights_equal_uninterrupted_ones_bit_by_bit(run, tmp_path: Path) -> None:
    folder, dense = run
    other = again(folder, tmp_path / "other")
    settings = RecoverSettings(**SETTINGS)
    recover(folder, settings, dense, tiny_images())

    class Killed(Exception):
        pass

    def kill_at(step: int):
        def progress(work: str, done: int, total: int) -> None:
            if done == step:
                raise Killed

        return progress

    for step in (3, 6, 11):
        with pytest.raises(Killed):
            recover(other, settings, dense, tiny_images(), progress=kill_at(step))
    recover(other, settings, dense, tiny_images())
    assert all(torch.equal(weights(other)[name], tensor) for name, tensor in weights(folder).items())
    assert log_of(folder) == log_of(other)


def test_what_is_published_is_the_average_of_clipped_steps(run) -> None:
    """By hand from the checkpoints of every step: the average, its warm-up, and the gradient that was stepped by."""
    folder, dense = run
    every = {"steps": 2, "checkpoint_every": 1, "gradient_clip": 1e-3, "ema": 0.2}
    every |= {"learning_rate": 0.05}  # weights that move by more than rounding
    average = load_file(folder.path / "prune" / WEIGHTS)
    recover(folder, RecoverSettings(**SETTINGS | every), dense, tiny_images())
    for step, decay in ((1, 2 / 11), (2, 0.2)):
        state = load_file(folder.path / "recover" / "checkpoints" / f"step-{step:08}.safetensors")
        for name, mean in average.items():
            average[name] = decay * mean + (1 - decay) * state[f"model/{name}"]
            torch.testing.assert_close(state[f"average/{name}"], average[name])
        if step == 1:
            norm = torch.stack([state[f"optimizer/{name}/exp_avg"].norm() for name in average]).norm()
            assert float(norm) == pytest.approx(0.1 * 1e-3, rel=1e-3), "AdamW keeps a tenth of the first gradient"
    published = weights(folder)
    assert all(torch.equal(published[name], state[f"average/{name}"]) for name in average)


def test_weights_decay_by_the_share_that_was_asked_for() -> None:
    network = torch.nn.Linear(3, 2)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    adamw = optimiser(network, RecoverSettings(learning_rate=0.1, weight_decay=0.5))
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    adamw.step()
    for old, parameter in zip(before, network.parameters(), strict=True):
        torch.testing.assert_close(parameter.detach(), 0.95 * old)


@pytest.mark.slow
def test_micro_batches_change_memory_and_not_the_result(run, tmp_path: Path) -> None:
    folder, dense = run
    other = again(folder, tmp_path / "other")
    mix = {"losses": {"noise": 0.5, "distillation": 1.0, "jacobian": 0.1}, "min_snr_gamma": 5.0, "steps": 6}
    recover(folder, RecoverSettings(**SETTINGS | mix), dense, tiny_images())
    recover(other, RecoverSettings(**SETTINGS | mix, micro_batch_size=3), dense, tiny_images())
    for name, tensor in weights(folder).items():
        torch.testing.assert_close(weights(other)[name], tensor, rtol=0, atol=2e-4)


@pytest.mark.slow
def test_more_steps_go_on_from_where_it_was(run) -> None:
    folder, dense = run
    settings = {**SETTINGS, "schedule": "constant"}
    recover(folder, RecoverSettings(**settings), dense, tiny_images())
    seen: list[int] = []
    more = RecoverSettings(**settings | {"steps": 16})
    recover(folder, more, dense, tiny_images(), progress=lambda w, d, t: seen.append(d))
    assert seen == [13, 14, 15, 16]


@pytest.mark.slow
def test_checkpoints_of_another_recovery_do_not_crowd_out_new_ones(run, caplog) -> None:
    folder, dense = run
    recover(folder, RecoverSettings(**SETTINGS), dense, tiny_images())

    def stop_at_7(work: str, done: int, total: int) -> None:
        if done == 7:
            raise KeyboardInterrupt

    other = RecoverSettings(**SETTINGS, seed=1)
    with pytest.raises(KeyboardInterrupt):
        recover(folder, other, dense, tiny_images(), progress=stop_at_7)
    assert "of another recovery" in caplog.text
    seen: list[int] = []
    recover(folder, other, dense, tiny_images(), progress=lambda w, d, t: seen.append(d))
    assert seen[0] == 5, "the checkpoint of step 4 was lost"


def test_losses_survive_a_kill_after_the_last_checkpoint(run) -> None:
    folder, dense = run
    first = recover(folder, RecoverSettings(**SETTINGS), dense, tiny_images())
    record = folder.record()
    del record["stages"]["recover"]
    (folder.path / "run.json").write_text(json.dumps(record))
    assert recover(folder, RecoverSettings(**SETTINGS), dense, tiny_images()) == first


@pytest.mark.slow
def test_dropout_does_not_make_it_a_game_of_chance(tmp_path: Path) -> None:
    found = []
    for name in ("one", "other"):
        dense = tiny_folder(tmp_path / name / "dense", **SMALLEST)
        folder = RunFolder.create(tmp_path / name / "run")
        with folder.writing(Request("prune", {}, {})) as prune:
            tiny_folder(prune / "model", seed=1, dropout=0.3, **SMALLEST)
            write_json(prune / "plan.json", PLAN)
        recover(folder, RecoverSettings(**SETTINGS), dense, tiny_images())
        found.append(weights(folder))
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])


def test_a_half_line_in_the_log_is_dropped(run) -> None:
    folder, dense = run
    log = folder.path / "recover" / "log.jsonl"
    log.parent.mkdir()
    log.write_text('{"step": 1, "tot')
    recover(folder, RecoverSettings(**SETTINGS), dense, tiny_images())
    assert [line["step"] for line in log_of(folder)] == list(range(1, 13))


def test_a_finished_recovery_is_not_repeated(run) -> None:
    folder, dense = run
    settings = RecoverSettings(**SETTINGS)
    first = recover(folder, settings, dense, tiny_images())
    seen: list[int] = []
    assert recover(folder, settings, dense, tiny_images(), progress=lambda w, d, t: seen.append(d)) == first
    assert seen == []


@pytest.mark.slow
def test_training_helps(run) -> None:
    folder, dense = run
    recover(
        folder,
        RecoverSettings(**SETTINGS | {"steps": 60, "losses": {"distillation": 1.0}, "learning_rate": 1e-3}),
        dense,
        tiny_images(),
    )
    log = [json.loads(line)["distillation"] for line in (folder.path / "recover" / "log.jsonl").open()]
    assert np.mean(log[-10:]) < 0.7 * np.mean(log[:10])


def test_a_loss_that_is_not_finite_stops_with_what_to_try(run) -> None:
    folder, dense = run
    bad = SETTINGS | {"learning_rate": 1e25, "gradient_clip": 1e25, "warmup_steps": 0, "checkpoint_every": 1}
    words = r"The loss at step (\d+) is not finite[\s\S]*the last good checkpoint: step \1,[\s\S]*learning-rate"
    with pytest.raises(DtkError, match=words):
        recover(folder, RecoverSettings(**bad), dense, tiny_images())
    with pytest.raises(DtkError, match="checkpoint: none was saved yet"):
        recover(folder, RecoverSettings(**bad | {"checkpoint_every": 99, "seed": 1}), dense, tiny_images())


@pytest.mark.parametrize("fits", [2, 0])
def test_out_of_memory_says_what_fits(fits: int, run, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, dense = run
    load = load_denoiser

    def small_device(model: ModelFolder) -> torch.nn.Module:
        def allocate(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if len(inputs[0]) > fits:
                raise torch.OutOfMemoryError("CUDA out of memory")

        network = load(model)
        network.register_forward_pre_hook(allocate)
        return network

    monkeypatch.setattr("toolkit.recovery.prepare.load_denoiser", small_device)
    words = (
        r"8 images at once[\s\S]*2 at once, which fit[\s\S]*micro_batch_size=2" if fits else "a single one does not fit"
    )
    with pytest.raises(DtkError, match=rf"Out of memory at step 0[\s\S]*{words}"):
        recover(folder, RecoverSettings(**SETTINGS), dense, tiny_images())
    if fits:
        settings = RecoverSettings(**SETTINGS | {"steps": 2}, micro_batch_size=2)
        assert recover(folder, settings, dense, tiny_images())["steps"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"channels_last": True}, {"mixed_precision": "bf16"}])
def test_other_ways_to_compute_train_alike_and_resume_exactly(change: dict, run, tmp_path: Path) -> None:
    folder, dense = run
    settings = SETTINGS | {"steps": 4, "checkpoint_every": 2}
    plain = recover(again(folder, tmp_path / "plain"), RecoverSettings(**settings), dense, tiny_images())
    changed = RecoverSettings(**settings | change)
    whole, parts = (again(folder, tmp_path / name) for name in ("whole", "parts"))
    losses = recover(whole, changed, dense, tiny_images())["losses"]
    assert losses == pytest.approx(plain["losses"], rel=0.02)

    def stop(work: str, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recover(parts, changed, dense, tiny_images(), progress=stop)
    recover(parts, changed, dense, tiny_images())
    assert all(torch.equal(weights(parts)[name], tensor) for name, tensor in weights(whole).items())


@pytest.mark.slow
def test_training_never_goes_back(run) -> None:
    folder, dense = run
    recover(folder, RecoverSettings(**SETTINGS), dense, tiny_images())
    before, kept = weights(folder), sorted((folder.path / "recover" / "checkpoints").iterdir())
    with pytest.raises(UsageError, match=r"already beyond[\s\S]*12 steps done, 8 requested[\s\S]*12 steps or more"):
        recover(folder, RecoverSettings(**SETTINGS | {"steps": 8}), dense, tiny_images())
    assert all(torch.equal(weights(folder)[name], tensor) for name, tensor in before.items())
    assert sorted((folder.path / "recover" / "checkpoints").iterdir()) == kept


@pytest.mark.slow
def test_compiled_networks_train_alike_or_not_at_all(tmp_path: Path) -> None:
    """On a CPU torch 2.13 compiles a UNet to code without some gradients; if it does not, the losses are equal."""
    folder, dense = started(tmp_path, tiny_folder(tmp_path / "dense", **ONE_BLOCK), **ONE_BLOCK)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    settings = SETTINGS | {"steps": 2, "losses": {"noise": 1.0}}
    plain = recover(again(folder, tmp_path / "plain"), RecoverSettings(**settings), dense, tiny_images(), device=device)
    try:
        compiled = recover(folder, RecoverSettings(**settings, compile=True), dense, tiny_images(), device=device)
    except DtkError as refused:
        assert device == "cpu" and "The compiled network has other gradients than the network itself" in str(refused)
    else:
        assert compiled["losses"] == pytest.approx(plain["losses"], rel=1e-3)


def test_losses_that_look_inside_are_not_compiled(run) -> None:
    folder, dense = run
    settings = RecoverSettings(**SETTINGS, compile=True, losses={"distillation": 1.0, "jacobian": 0.1})
    with pytest.raises(UsageError, match=r"recover.compile with jacobian[\s\S]*compile=false"):
        recover(folder, settings, dense, tiny_images())


def test_a_cpu_refuses_fp16(run) -> None:
    folder, dense = run
    with pytest.raises(UsageError, match=r"A CPU does not train in fp16[\s\S]*bf16"):
        recover(folder, RecoverSettings(**SETTINGS, mixed_precision="fp16"), dense, tiny_images())


def test_the_scaler_of_fp16_is_kept_with_a_checkpoint(tmp_path: Path) -> None:
    def fresh() -> State:
        model = torch.nn.Linear(2, 2)
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        average = {name: p.detach().clone() for name, p in model.named_parameters()}
        return State(model, average, optimizer, torch.amp.GradScaler("cpu", init_scale=1024.0))

    one, other = fresh(), fresh()
    one.scaler.scale(torch.ones(1))  # it makes its tensors at the first call
    one.scaler.update(128.0)
    save_checkpoint(tmp_path, one, "same", keep=1)
    assert restore(tmp_path, other, "same", last=0) == []
    assert other.scaler.state_dict() == one.scaler.state_dict() and other.scaler.get_scale() == 128.0


@pytest.mark.parametrize("kernels", [{"foreach": True}, {"fused": True}])
def test_the_optimiser_goes_on_from_a_checkpoint(kernels: dict, tmp_path: Path) -> None:
    """Whatever kernels it uses: on a GPU one fused kernel, which counts its steps on the device."""

    def fresh() -> State:
        torch.manual_seed(0)
        model = torch.nn.Linear(2, 2)
        average = {name: p.detach().clone() for name, p in model.named_parameters()}
        return State(model, average, torch.optim.AdamW(model.parameters(), lr=0.1, **kernels))

    def train(state: State, steps: int) -> None:
        for _ in range(steps):
            state.optimizer.zero_grad()
            state.model(torch.ones(1, 2)).square().sum().backward()
            state.optimizer.step()
            state.step += 1

    whole, one, other = fresh(), fresh(), fresh()
    train(whole, 5)
    train(one, 2)
    one.update_average(0.5)
    save_checkpoint(tmp_path, one, "same", keep=1)
    assert restore(tmp_path, other, "same", last=5) == []
    assert all(torch.equal(other.average[name], average) for name, average in one.average.items())
    train(other, 3)
    assert all(torch.equal(whole.model.get_parameter(name), other.model.get_parameter(name)) for name in whole.average)


def test_a_checkpoint_of_another_training_steps_aside_until_it_is_requested_again(tmp_path: Path) -> None:
    def fresh(step: int = 0) -> State:
        model = torch.nn.Linear(2, 2)
        model(torch.ones(1, 2)).sum().backward()
        optimizer = torch.optim.AdamW(model.parameters())
        optimizer.step()
        return State(model, {name: p.detach().clone() for name, p in model.named_parameters()}, optimizer, step=step)

    first, other = fresh(step=4), fresh(step=2)
    save_checkpoint(tmp_path, first, "first", keep=1)
    assert restore(tmp_path, other, "other", last=9) == [
        "step-00000004.safetensors: of another recovery, kept until this one has ended"
    ]
    assert other.step == 2 and other.saved is None
    save_checkpoint(tmp_path, other, "other", keep=1)
    again = fresh()
    assert restore(tmp_path, again, "first", last=9)[0].startswith("step-00000002.safetensors: of another recovery")
    assert again.step == 4 and torch.equal(again.model.weight, first.model.weight)
    remove_others(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000004.safetensors"]


@pytest.mark.parametrize("micro", [1, 3])
def test_losses_are_those_of_the_batch_however_it_is_split(micro: int, run, tmp_path: Path) -> None:
    folder, dense = run
    other, one_step = again(folder, tmp_path / "other"), SETTINGS | {"steps": 1}
    whole = recover(folder, RecoverSettings(**one_step), dense, tiny_images())["losses"]
    split = recover(other, RecoverSettings(**one_step, micro_batch_size=micro), dense, tiny_images())["losses"]
    assert split == pytest.approx(whole, rel=1e-4)


def test_an_unknown_loss_lists_the_known(run) -> None:
    folder, dense = run
    with pytest.raises(UsageError, match=r"Unknown loss 'perceptual'[\s\S]*distillation, features, jacobian, noise"):
        recover(folder, RecoverSettings(losses={"perceptual": 1.0}), dense, tiny_images(100))


def test_a_sample_is_a_function_of_its_number() -> None:
    images = tiny_images(10)
    one, other = (Batches(images, 100, seed=3, flip=True, directions=True) for _ in range(2))
    whole = one(range(24), torch.device("cpu"))
    for start in (16, 0, 8):
        part = other(range(start, start + 8), torch.device("cpu"))
        assert torch.equal(part.images, whole.images[start : start + 8])
        assert torch.equal(part.noise, whole.noise[start : start + 8])
        assert torch.equal(part.t, whole.t[start : start + 8])
        assert torch.equal(part.direction, whole.direction[start : start + 8])
    torch.testing.assert_close(whole.direction.square().sum((1, 2, 3)), torch.ones(24))
    first_epoch = {tuple(np.sort(image.flatten().numpy())) for image in whole.images[:10]}
    assert len(first_epoch) == 10, "an epoch shows every image once"
    for drawn in (whole.noise, whole.direction):
        assert len({tensor.numpy().tobytes() for tensor in drawn}) == 24, "every sample has its own"
    assert len(set(whole.t.tolist())) > 12


@pytest.mark.parametrize("in_memory", [False, True])
def test_about_half_of_the_images_are_mirrored_left_to_right(in_memory: bool) -> None:
    images, item = tiny_images(10), order(10, 3, "recovery order")
    if in_memory:
        images = open_examples(images.read(range(10)), (3, 8, 8), (-1, 1), None)
    seen = Batches(images, 100, seed=3, flip=True)(range(64), torch.device("cpu")).images
    plain = torch.from_numpy(images.read([item(sample) for sample in range(64)]))
    mirrored = [torch.equal(image, own.flip(-1)) for image, own in zip(seen, plain, strict=True)]
    assert all(flip or torch.equal(image, own) for flip, image, own in zip(mirrored, seen, plain, strict=True))
    assert 16 < sum(mirrored) < 48


def test_every_epoch_has_an_order_of_its_own() -> None:
    item = order(10, 3, "recovery order")
    epochs = [tuple(item(10 * epoch + place) for place in range(10)) for epoch in range(5)]
    assert len(set(epochs)) == 5 and all(sorted(epoch) == list(range(10)) for epoch in epochs)


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_learning_rate_rises_and_then_obeys_its_schedule(schedule: str) -> None:
    settings = RecoverSettings(steps=100, warmup_steps=10, learning_rate=1.0, schedule=schedule)
    rates = [loop.learning_rate(settings, step) for step in range(100)]
    assert rates[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    if schedule == "constant":
        assert set(rates[10:]) == {1.0}
    else:
        assert rates[55] == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.5)))
        assert all(a >= b for a, b in itertools.pairwise(rates[10:]))


def test_the_gpu_that_is_named_is_the_one_trained_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Accelerate itself takes torch's current device."""
    named: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_device", named.append)
    for device in ("cpu", "cuda", "cuda:1"):
        make_accelerator(RecoverSettings(), device, tmp_path)
    assert named == ["cuda:1"]
