"""ImageDecoder: the half of an AutoencoderKL that makes images (toolkit.models.decoder).

Free are the widths of its levels. ``norm_num_groups`` is the encoder's as well, so that no stock autoencoder can follow
the policy ``whole``, which scales it, and settings do not offer it; ``layers_per_block`` is too, so all blocks stay.
"""

from __future__ import annotations

from typing import Any

from toolkit.adapters.base import Constraints, InputSpec
from toolkit.adapters.blocks import NoBlocks
from toolkit.adapters.space import Config, Space
from toolkit.adapters.unet import refuse_widths, width_space
from toolkit.core.errors import DtkError

KNOWN_BLOCKS = ("UpDecoderBlock2D", "AttnUpDecoderBlock2D")


class DecoderAdapter:
    """Level widths of a decoder; its attention has one head, which gets smaller."""

    class_name = "ImageDecoder"
    component = ""
    has_widths, null_class, timed = True, False, False
    blocks = NoBlocks()

    def conditioning_inputs(self, config: Config, tokens: int) -> dict[str, InputSpec]:
        return {}

    def space(self, config: Config, limits: Constraints) -> Space:
        unknown = sorted(set(config["up_block_types"]) - set(KNOWN_BLOCKS))
        if unknown:
            raise DtkError("dtk cannot prune these blocks.", found=", ".join(unknown), expected=", ".join(KNOWN_BLOCKS))
        refuse_widths(config, config["norm_num_groups"])
        heads = [1] * len(config["block_out_channels"])
        return width_space(config, limits, heads, config["norm_num_groups"], _narrowed)

    def whole_heads(self, config: Config) -> bool:
        return False


def _narrowed(config: Config, widths: list[int], changed: dict[str, Any]) -> Config:
    return {**config, **changed, "block_out_channels": widths}


PART = DecoderAdapter()
