"""A decoder is scored by the error of the images it makes: one timestep, no noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.pruning.cases import dense_model, prunable_of
from toolkit.core.noise import normal
from toolkit.core.progress import silent
from toolkit.pruning.calibration import DecoderCalibration, held_out_loss
from toolkit.pruning.criteria.base import Task, criterion_called
from toolkit.pruning.criteria.diff_pruning import squared_taylor
from toolkit.pruning.gradients import Effort
from toolkit.pruning.scoring import score_channels


@pytest.mark.parametrize("criterion", ["taylor", "diff-pruning"])
@pytest.mark.parametrize("effort", [Effort(), Effort(timesteps=4, batch_size=2), Effort(checkpointing=True)])
def test_scores_are_those_of_the_reconstruction_error(criterion: str, effort: Effort) -> None:
    decoder = dense_model("decoder")
    layout = prunable_of(decoder).layout
    images, latents = (
        torch.from_numpy(normal("pair", n, shape=s)) for n, s in enumerate(((5, 3, 16, 16), (5, 4, 8, 8)))
    )
    calibration = DecoderCalibration.of(images, latents)
    scored = criterion_called(criterion).score(
        Task(decoder, layout, calibration, (0.05, 0.0), False, 0, silent, effort)
    )
    assert all(parameter.grad is None for parameter in decoder.parameters())

    squared = (decoder(latents)[0] - images).square()
    squared.flatten(1).sum(1).mean().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in decoder.named_parameters()}
    expected = score_channels(decoder, layout, squared_taylor(gradients.__getitem__))
    for of_threshold in scored.values():
        assert len(of_threshold.halves) == 2
        for group, scores in expected.items():
            np.testing.assert_allclose(of_threshold.scores[group], scores, rtol=1e-3, atol=1e-6 * scores.max())
    assert held_out_loss(decoder, calibration, batch_size=2) == pytest.approx(float(squared.detach().mean()), rel=1e-5)
