"""SDXL's added embedding (``addition_embed_type`` "text_time"): a pooled caption, and sizes as sinusoids.

``add_embedding`` reads [``text_embeds``, the sinusoids of each of ``time_ids``] and adds its output to the time
embedding. SDXL has six ids (original height and width, crop top and left, target height and width); its refiner has
five, an aesthetic score in place of the target size (Podell et al. 2023, section 2.2). These sinusoids share
``freq_shift`` with those of the timestep, so a narrower first level changes their frequencies as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from toolkit.adapters.base import InputSpec
from toolkit.adapters.space import Config

LARGEST_ID = 4096  # pixels: ids are sizes, crops and scores
FINER = 2  # how many times as dense the frequencies of a narrower model lie


@dataclass(frozen=True)
class TextTime:
    """The parts of the added embedding's input: ``pooled`` numbers of the caption, then ``ids`` sinusoids."""

    pooled: int
    ids: int

    @property
    def inputs(self) -> dict[str, InputSpec]:
        """What the denoiser takes for it."""
        return {
            "text_embeds": InputSpec((self.pooled,)),
            "time_ids": InputSpec((self.ids,), upper=LARGEST_ID),
        }


def text_time(config: Config) -> TextTime | None:
    """The added embedding of a UNet's config, None if it has none.

    The config holds only the sum of its parts. A refiner is told by its context, which is as wide as its one encoder's
    pooled caption.
    """
    if config.get("addition_embed_type") != "text_time":
        return None
    width, total = config["addition_time_embed_dim"], config["projection_class_embeddings_input_dim"]
    ids = 5 if total - 5 * width == config["cross_attention_dim"] else 6
    return TextTime(total - ids * width, ids)


def narrowed_ids(config: Config, lost: int) -> dict[str, Any]:
    """The fields that keep the ids' sinusoids useful when ``freq_shift`` is lowered by ``lost``; none without them.

    Of h frequencies and shift s, number i is 10000^(-i / (h - s)). With 2 (h - s) + s - lost frequencies at the new
    shift they are the dense ones with one more between every two, less the slowest. The slowest are not smooth over
    thousands of pixels, as they are over a thousand timesteps: it takes the additional ones to make up for them.
    """
    added = text_time(config)
    if added is None or not lost:
        return {}
    dense, shift = config["addition_time_embed_dim"] // 2, config["freq_shift"]
    width = 2 * (FINER * (dense - shift) + shift - lost)
    return {
        "addition_time_embed_dim": width,
        "projection_class_embeddings_input_dim": added.pooled + added.ids * width,
    }
