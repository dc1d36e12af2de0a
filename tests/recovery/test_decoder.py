"""What a decoder loses, as a function of its images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.tiny import randomise, tiny_decoder
from toolkit.core.noise import normal
from toolkit.recovery.decoder import DecoderRecovery, FeatureDistance, LatentBatch


class Pictures(nn.Module):
    """Two resolutions, and a layer that sees no picture."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 6, 3, stride=2), nn.Linear(6, 2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.head(self.coarse(self.fine(pixels / 255).relu()).mean((2, 3)))


def images(seed: int) -> torch.Tensor:
    return torch.from_numpy(normal("made", seed, shape=(3, 3, 8, 8)))


def test_features_are_compared_by_direction_at_every_resolution() -> None:
    network = randomise(Pictures())
    distance = FeatureDistance(network)
    made, wanted = images(0).requires_grad_(), images(1)
    assert torch.equal(distance(wanted, wanted), torch.zeros(3))
    both = distance(made, wanted)
    expected = []
    fine = [network.fine((each + 1) * 127.5 / 255) for each in (made, wanted)]
    for one, other in (fine, [network.coarse(each.relu()) for each in fine]):
        cosine = nn.functional.cosine_similarity(one, other, dim=1)
        expected.append((2 - 2 * cosine).mean((1, 2)))
    torch.testing.assert_close(both, torch.stack(expected).mean(0))
    both.sum().backward()
    assert made.grad is not None and float(made.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("features", [False, True])
def test_losses_are_those_to_the_dense_decoder(features: bool) -> None:
    student, teacher = tiny_decoder(1), tiny_decoder(0)
    distance = FeatureDistance(randomise(Pictures())) if features else None
    latents = torch.from_numpy(normal("latents", 0, shape=(2, 4, 8, 8)))
    recovery = DecoderRecovery(student, teacher, lambda z: 2 * z, None, 0, distance, torch.device("cpu"))
    losses = recovery(LatentBatch(latents))
    made, wanted = student(2 * latents)[0], teacher(2 * latents)[0]
    torch.testing.assert_close(losses["pixels"], (made - wanted).abs().mean())
    assert set(losses) == {"pixels", *(["features"] if features else [])}
    recovery = DecoderRecovery(teacher, teacher, lambda z: z, None, 0, distance, torch.device("cpu"))
    assert all(float(loss.detach()) == 0 for loss in recovery(LatentBatch(latents)).values())
