"""CUDA graphs: what a CPU can show of them (fixed memory, nothing that waits for a device), and the rest on a GPU."""

from __future__ import annotations

import gc
import weakref
from contextlib import closing

import pytest
import torch

from tests.exported import specs_of, tiny_model
from toolkit.adapters.inputs import example_inputs
from toolkit.core.errors import MissingToolError, UsageError
from toolkit.diffusion.loop_graph import CAPTURED, LoopGraph
from toolkit.diffusion.sampling import SAMPLERS, sample
from toolkit.models.schedulers import load_scheduler
from toolkit.runners.base import open_runner
from toolkit.runners.cuda_graph import CudaGraphRunner, Replay, Work
from toolkit.runners.torch import TorchRunner

on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
SHAPE = (3, 8, 8)


class Recorder:
    """Stands for a graph on a CPU: a replay does the same work again on the same memory."""

    def __init__(self) -> None:
        self.captures = 0

    def __call__(self, work: Work, device: str) -> tuple[torch.Tensor, Replay]:
        self.captures += 1
        output = work().clone()
        return output, lambda: output.copy_(work())


@pytest.mark.parametrize("classes", [None, 5])
def test_agrees_with_torch_and_captures_once_a_shape(classes: int | None) -> None:
    model, recorder = tiny_model(classes), Recorder()
    with closing(TorchRunner(model)) as plain, closing(CudaGraphRunner(model, device="cpu", capture=recorder)) as graph:
        for batch, seed in ((2, 0), (3, 1), (2, 2), (3, 3)):
            inputs = example_inputs(specs_of(model), batch, seed=seed)
            assert torch.equal(graph(**inputs), plain(**inputs))
    assert recorder.captures == 2


def test_a_prediction_outlives_the_next_and_inputs_are_left_alone() -> None:
    model = tiny_model()
    with closing(CudaGraphRunner(model, device="cpu", capture=Recorder())) as graph:
        first = example_inputs(specs_of(model), 2)
        copies = {name: tensor.clone() for name, tensor in first.items()}
        prediction = graph(**first)
        kept = prediction.clone()
        graph(**example_inputs(specs_of(model), 2, seed=1))
    assert torch.equal(prediction, kept)
    assert all(torch.equal(first[name], copies[name]) for name in first)


@pytest.mark.parametrize("sampler", CAPTURED)
def test_the_captured_loop_makes_the_images_of_the_loop(sampler: str) -> None:
    model, recorder = tiny_model(), Recorder()
    scheduler = load_scheduler(model)
    with closing(TorchRunner(model)) as runner:
        loop = LoopGraph(runner, scheduler, 2, SHAPE, 5, sampler, device="cpu", capture=recorder)
        for seeds in ((0, 1), (7, 3)):
            torch.testing.assert_close(loop(seeds), sample(runner, scheduler, seeds, SHAPE, 5, sampler))
    assert recorder.captures == 1


def test_the_captured_loop_takes_other_conditioning() -> None:
    model = tiny_model(5)
    scheduler = load_scheduler(model)
    labels = [{"class_labels": torch.tensor(one)} for one in ([0, 1], [4, 2])]
    with closing(TorchRunner(model)) as runner:
        loop = LoopGraph(runner, scheduler, 2, SHAPE, 3, device="cpu", conditioning=labels[0], capture=Recorder())
        for given in labels:
            expected = sample(runner, scheduler, (0, 1), SHAPE, 3, conditioning=given)
            torch.testing.assert_close(loop((0, 1), given), expected)


@pytest.mark.parametrize("sampler", CAPTURED)
def test_nothing_in_the_loop_waits_for_the_gpu(sampler: str) -> None:
    """A graph cannot hold a read of the device's memory by the CPU; on the meta device such a read is an error."""
    scheduler = load_scheduler(tiny_model())

    def once(work: Work, device: str) -> tuple[torch.Tensor, Replay]:
        return work(), lambda: None

    def predict(x: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        return x * timestep.view(-1, 1, 1, 1).cos()

    def reads(x: torch.Tensor, timestep: torch.Tensor, **conditioning: torch.Tensor) -> torch.Tensor:
        return x * float(timestep[0])

    loop = LoopGraph(predict, scheduler, 2, SHAPE, 5, sampler, device="meta", capture=once)
    assert loop._captured._output.shape == (2, *SHAPE)
    with pytest.raises(RuntimeError, match="meta tensors"):
        LoopGraph(reads, scheduler, 2, SHAPE, 5, sampler, device="meta", capture=once)


def test_what_a_graph_reads_stays_in_memory() -> None:
    """A graph reads the timesteps where they lay when it was captured; only the graph still knows of them."""
    batched: list[weakref.ref[torch.Tensor]] = []

    def predict(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        batched.append(weakref.ref(timestep))
        return x * timestep.view(-1, 1, 1, 1).cos()

    def once(work: Work, device: str) -> tuple[torch.Tensor, Replay]:  # a CUDA graph keeps nothing of Python's
        return work(), lambda: None

    loop = LoopGraph(predict, load_scheduler(tiny_model()), 2, SHAPE, 5, device="cpu", capture=once)
    gc.collect()
    assert len(batched) == 5 and all(timestep() is not None for timestep in batched)
    del loop


def test_a_sampler_that_draws_noise_is_refused() -> None:
    assert set(SAMPLERS) - set(CAPTURED) == {"ddpm", "unipc"}
    with pytest.raises(UsageError, match=r"ddpm cannot be captured[\s\S]*its steps draw noise[\s\S]*ddim"):
        LoopGraph(lambda x, t: x, load_scheduler(tiny_model()), 1, SHAPE, 2, "ddpm", device="cpu")


def test_without_a_gpu_the_reason_is_said() -> None:
    with pytest.raises(MissingToolError, match=r"cudagraph is not available on cpu[\s\S]*NVIDIA GPU"):
        open_runner("cudagraph", tiny_model())


@pytest.mark.gpu
@on_a_gpu
def test_on_a_gpu_step_and_loop_agree_with_torch() -> None:
    model = tiny_model()
    scheduler = load_scheduler(model)
    with closing(TorchRunner(model, device="cuda")) as plain, closing(CudaGraphRunner(model)) as graph:
        for batch in (1, 3):
            inputs = example_inputs(specs_of(model), batch, device="cuda")
            torch.testing.assert_close(graph(**inputs), plain(**inputs), rtol=1e-4, atol=1e-4)
        loop = LoopGraph(graph.uncaptured, scheduler, 2, SHAPE, 5)
        for seeds in ((0, 1), (7, 3)):
            expected = sample(plain, scheduler, seeds, SHAPE, 5, device="cuda")
            torch.testing.assert_close(loop(seeds), expected, rtol=1e-4, atol=1e-4)
