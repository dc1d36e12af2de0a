"""A tiny Stable Diffusion and what pruning by random scores makes of it, as folders, with the plan between them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel

from tests.latent import WIDTH, tiny_stable_diffusion
from tests.pruning.cases import inputs_of, prunable_of, random_scores
from tests.tiny import TWO_CONTEXT_LEVELS, tiny_conditional_unet
from toolkit.adapters.inputs import positional
from toolkit.importing.addons import Pruned
from toolkit.models.folder import find_model
from toolkit.models.save import save_model
from toolkit.pruning import surgery
from toolkit.pruning.plan import Plan
from toolkit.pruning.prunable import Prunable

T = 20  # of the tiny scheduler
SHAPES: dict[str, dict[str, object]] = {
    "first level whole": {"attention_head_dim": 2},
    "narrower": {"attention_head_dim": 2},
    "shallower": {"layers_per_block": 2, "use_linear_projection": True},
}


@dataclass(frozen=True)
class Pair:
    """Both folders, the plan, and what rebuilds the compressed denoiser from weights of the dense one."""

    pruned: Pruned
    prunable: Prunable

    @property
    def dense(self) -> UNet2DConditionModel:
        return UNet2DConditionModel.from_pretrained(self.pruned.folder.denoiser).eval()

    def sliced(self, dense: UNet2DConditionModel) -> UNet2DConditionModel:
        plan = self.pruned.plan
        rename = self.prunable.rename(plan.config)
        return surgery.slice_model(dense, plan.config, plan.layout, plan.kept, T, rename)[0]

    def pipeline(self) -> StableDiffusionPipeline:
        return StableDiffusionPipeline.from_pretrained(self.pruned.compressed.root, safety_checker=None)


def pair(root: Path, name: str) -> Pair:
    """A shape pruned to about 0.7 of its width, and "shallower" by one block per level as well."""
    folder = tiny_stable_diffusion(root / "dense")
    dense = tiny_conditional_unet(cross_attention_dim=WIDTH, **TWO_CONTEXT_LEVELS, **SHAPES[name])
    dense.save_pretrained(folder.denoiser)
    prunable = prunable_of(dense, blocks=name == "shallower")
    wanted = {"width": 0.7, "blocks": 0.5}
    whole = {"level 0"} if name == "first level whole" else set()
    values = tuple(v.dense if v.name in whole else v.nearest(wanted[v.kind]) for v in prunable.space.variables)
    config = prunable.space.configure(values)
    kept = prunable.kept(random_scores(prunable), config)
    plan = Plan({}, prunable.class_name, config, prunable.layout, kept, prunable.blocks(config))
    plan.write(root / "plan.json")
    both = Pair(Pruned(find_model(folder.root), folder, plan), prunable)
    save_model(folder, both.sliced(dense), root / "compressed")
    return Pair(Pruned(find_model(folder.root), find_model(root / "compressed"), plan), prunable)


def predict(unet: torch.nn.Module) -> torch.Tensor:
    """The prediction for three fixed items."""
    first, named = positional(inputs_of(unet, T))
    with torch.no_grad():
        return unet(*first, **named).sample
