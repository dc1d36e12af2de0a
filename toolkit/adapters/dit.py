"""DiTTransformer2DModel: the transformer of DiT (Peebles and Xie 2023).

Its residual width is tied to a computed position embedding, so the stock way is depth: ``num_layers``. Every block has
a conditioning embedder of its own (``norm1.emb``), and the final layer reads that of block 0: it moves to the first
block that is kept. Models converted from the original DiT hold the same embedder in every block: nothing is lost.
"""

from __future__ import annotations

from collections.abc import Mapping

from toolkit.adapters.base import Constraints, InputSpec
from toolkit.adapters.blocks import KeptBlocks, Rename, Stack, renumber
from toolkit.adapters.space import Config, Space, Values, Variable, multiples
from toolkit.core.errors import DtkError

STACK = "transformer blocks"
PREFIX = "transformer_blocks."
EMBEDDER = "norm1.emb."


class DiTBlocks:
    """Any transformer block may be removed, as long as one is left."""

    def stacks(self, config: Config) -> dict[str, Stack]:
        return {STACK: Stack(config["num_layers"], tuple(range(config["num_layers"])))}

    def resized(self, config: Config, sizes: Mapping[str, int]) -> Config:
        return {**config, "num_layers": sizes.get(STACK, config["num_layers"])}

    def rename(self, config: Config, kept: KeptBlocks) -> Rename:
        stay = kept[STACK]

        def renamed(tensor: str) -> str | None:
            if not tensor.startswith(PREFIX):
                return tensor
            number, _, rest = tensor.removeprefix(PREFIX).partition(".")
            if rest.startswith(EMBEDDER) and int(number) == 0:
                return f"{PREFIX}0.{rest}"
            if rest.startswith(EMBEDDER) and int(number) == stay[0]:
                return None
            return renumber(tensor, PREFIX, stay)

        return renamed

    def successors(self, config: Config, kept: KeptBlocks) -> dict[str, str]:
        return {}  # one residual stream runs through all of them


class DiTAdapter:
    """Number of blocks of DiTTransformer2DModel; those go whose removal changes the prediction least."""

    class_name = "DiTTransformer2DModel"
    component = "transformer"
    has_widths, null_class, timed = False, True, True
    blocks = DiTBlocks()

    def conditioning_inputs(self, config: Config, tokens: int) -> dict[str, InputSpec]:
        return {"class_labels": InputSpec((), "int64", config["num_embeds_ada_norm"])}

    def space(self, config: Config, limits: Constraints) -> Space:
        if config["sample_size"] % config["patch_size"]:
            raise DtkError(
                "The patches do not divide the sample of this DiTTransformer2DModel.",
                found=f"sample_size {config['sample_size']}, patch_size {config['patch_size']}",
            )
        dense = config["num_layers"]
        layers = Variable(STACK, dense, 1, multiples(dense, 1, limits.least), kind="blocks")

        def configure(values: Values) -> Config:
            return self.blocks.resized(config, {STACK: values[0]})

        return Space(config, (layers,), configure, lambda values: True)

    def whole_heads(self, config: Config) -> bool:
        return False


ADAPTER = DiTAdapter()
