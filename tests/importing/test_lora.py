"""slice(W + s B A) = slice(W) + s slice(B) slice(A): random LoRAs of every layer in the stock pipeline."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn

from tests.importing.pruned import Pair, pair, predict
from toolkit.core.errors import DtkError
from toolkit.core.noise import generator, normal
from toolkit.importing import lora
from toolkit.importing.carry import carry

FITTED = "time_embedding.linear_1"
TEXT = {
    "peft": "text_encoder.text_model.encoder.layers.0.self_attn.out_proj.lora_{}.weight",
    "kohya": "lora_te_text_model_encoder_layers_0_self_attn_out_proj.lora_{}.weight",
}
Factors = dict[str, tuple[torch.Tensor, torch.Tensor, float]]
"""layer -> B (outputs, rank), A (rank, inputs, ...), and s"""


@pytest.fixture(scope="module", params=["narrower", "shallower"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def stock(both: Pair) -> StableDiffusionPipeline:
    """The stock pipeline of the compressed folder; each test takes its LoRAs out again."""
    return both.pipeline()


@pytest.fixture
def pipeline(stock: StableDiffusionPipeline) -> Iterator[StableDiffusionPipeline]:
    yield stock
    stock.unload_lora_weights()


def factors(dense: nn.Module, seed: int) -> Factors:
    """Random factors for every linear and convolution; ranks and scales differ."""
    made: Factors = {}
    for name, module in dense.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            rank = int(generator(f"rank {name}", seed).integers(1, 5))
            out, inputs, *kernel = module.weight.shape
            spread = 0.5 / math.sqrt(module.weight[0].numel())
            down = torch.from_numpy(normal(f"A {name}", seed, shape=(rank, inputs, *kernel))) * spread
            up = torch.from_numpy(normal(f"B {name}", seed, shape=(out, rank, *[1] * len(kernel))))
            made[name] = (up, down, (1 + rank % 3) / 2)
    return made


def merged(dense: UNet2DConditionModel, *added: tuple[Factors, float]) -> UNet2DConditionModel:
    """The dense model with W + weight s B A in the place of W: what the LoRA means."""
    result = copy.deepcopy(dense)
    with torch.no_grad():
        for lora_factors, weight in added:
            for name, (up, down, scale) in lora_factors.items():
                parameter = result.get_submodule(name).weight
                parameter += weight * scale * (up.flatten(1) @ down.flatten(1)).view_as(parameter)
    return result


def write(path: Path, layout: str, made: Factors) -> Path:
    """A LoRA file of the layout, with a part for the text encoder."""
    tensors: dict[str, torch.Tensor] = {}
    metadata: dict[str, str] = {}
    for name, (up, down, scale) in made.items():
        flat = name.replace(".", "_")
        if layout == "peft":
            ends = (f"unet.{name}.lora_A.weight", f"unet.{name}.lora_B.weight")
        elif layout == "diffusers":
            ends = (f"unet.{name}.lora.down.weight", f"unet.{name}.lora.up.weight")
        elif layout == "processor":
            place, _, projection = name.removesuffix(".0").rpartition(".")
            ends = tuple(f"unet.{place}.processor.{projection}_lora.{end}.weight" for end in ("down", "up"))
        else:
            ends = (f"lora_unet_{flat}.lora_down.weight", f"lora_unet_{flat}.lora_up.weight")
            tensors[f"lora_unet_{flat}.alpha"] = torch.tensor(scale * down.shape[0])
        tensors[ends[0]], tensors[ends[1]] = down, up
    if layout == "peft":
        ranks = {name: down.shape[0] for name, (_, down, _) in made.items()}
        alphas = {name: scale * ranks[name] for name, (_, _, scale) in made.items()}
        config = {"r": 1, "lora_alpha": 1.0, "target_modules": list(made)}
        config |= {"rank_pattern": {f"^{n}": r for n, r in ranks.items()}}
        config |= {"alpha_pattern": {f"^{n}": a for n, a in alphas.items()}}
        metadata = {lora.METADATA: json.dumps({f"unet.{key}": value for key, value in config.items()})}
    if layout in TEXT:
        downwards, upwards = ("A", "B") if layout == "peft" else ("down", "up")
        tensors[TEXT[layout].format(downwards)] = torch.ones(2, 12)
        tensors[TEXT[layout].format(upwards)] = torch.full((12, 2), 0.1)
        if layout == "peft":
            text = {"r": 2, "lora_alpha": 2, "target_modules": ["out_proj"]}
            whole = json.loads(metadata[lora.METADATA]) | {f"text_encoder.{k}": v for k, v in text.items()}
            metadata = {lora.METADATA: json.dumps(whole)}
    save_file({n: t.contiguous() for n, t in tensors.items()}, path, metadata=metadata)
    return path


ATTENTION = (".to_q", ".to_k", ".to_v", ".to_out.0")
LAYOUTS = ("peft", "kohya", "diffusers", "processor")
"""The two later ones are older and hold no alpha: s is 1. Only attention's projections are in the last."""


def case(dense: nn.Module, layout: str, seed: int) -> Factors:
    made = {name: of for name, of in factors(dense, seed).items() if name != FITTED}
    if layout == "processor":
        made = {name: of for name, of in made.items() if name.endswith(ATTENTION)}
    return made if layout in ("peft", "kohya") else {name: (up, down, 1.0) for name, (up, down, _) in made.items()}


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_stock_pipeline_with_the_carried_lora_is_the_slice_of_the_merged_model(
    both: Pair, pipeline: StableDiffusionPipeline, layout: str, tmp_path: Path
) -> None:
    dense = both.dense
    made = case(dense, layout, 0)
    result = carry(write(tmp_path / "lora.safetensors", layout, made), tmp_path / "out", both.pruned)
    before = predict(pipeline.unet)
    text_before = text_of(pipeline)
    pipeline.load_lora_weights(result["file"])
    expected = predict(both.sliced(merged(dense, (made, 1.0))))
    torch.testing.assert_close(predict(pipeline.unet), expected, rtol=1e-4, atol=1e-4)
    assert (expected - before).abs().max() > 0.1, "the LoRA does nothing"
    assert result["sliced"] + len(result["removed"]) == len(made)
    assert bool(result["removed"]) == (both.pruned.plan.config["layers_per_block"] != dense.config.layers_per_block)
    if layout in TEXT:
        assert result["unchanged"] == 1
        assert not torch.allclose(text_of(pipeline), text_before)


def text_of(pipeline: StableDiffusionPipeline) -> torch.Tensor:
    with torch.no_grad():
        return pipeline.text_encoder(torch.tensor([[1, 2, 3]]))[0]


@pytest.mark.slow
def test_several_loras_add_up(both: Pair, pipeline: StableDiffusionPipeline, tmp_path: Path) -> None:
    dense = both.dense
    made = {layout: case(dense, layout, seed) for seed, layout in enumerate(("peft", "kohya"))}
    for layout, each in made.items():
        result = carry(write(tmp_path / f"{layout}.safetensors", layout, each), tmp_path / "out", both.pruned)
        pipeline.load_lora_weights(result["file"], adapter_name=layout)
    pipeline.set_adapters(["peft", "kohya"], [0.7, -0.4])
    expected = predict(both.sliced(merged(dense, (made["peft"], 0.7), (made["kohya"], -0.4))))
    torch.testing.assert_close(predict(pipeline.unet), expected, rtol=1e-4, atol=1e-4)


def test_the_product_of_sliced_factors_is_the_slice_of_their_product(both: Pair, tmp_path: Path) -> None:
    """Layer by layer, against what surgery makes of the merged model; kohya's alpha is in the factors by then."""
    dense = both.dense
    made = case(dense, "kohya", 0)
    result = carry(write(tmp_path / "lora.safetensors", "kohya", made), tmp_path / "out", both.pruned)
    tensors = load_file(result["file"])
    plain, added = (both.sliced(model).state_dict() for model in (dense, merged(dense, (made, 1.0))))
    names = [name for layer in made if (name := both.pruned.rename(f"{layer}.weight"))]
    assert len(names) == result["sliced"]
    for name in names:
        spelled = f"lora_unet_{name.removesuffix('.weight').replace('.', '_')}.lora_"
        up, down = (tensors[f"{spelled}{end}.weight"].flatten(1) for end in ("up", "down"))
        torch.testing.assert_close((up @ down).view_as(plain[name]), added[name] - plain[name], rtol=1e-3, atol=1e-4)


def test_what_went_is_named_and_a_text_part_is_untouched(both: Pair, tmp_path: Path) -> None:
    made = factors(both.dense, 0)
    source = write(tmp_path / "lora.safetensors", "kohya", made)
    result = carry(tmp_path, tmp_path / "out", both.pruned)
    gone = {name for name in made if both.pruned.rename(f"{name}.weight") is None}
    assert result["removed"].keys() == gone | {FITTED}
    assert {result["removed"][name] for name in gone} <= {"its block was removed"}
    assert result["removed"][FITTED] == "it was fitted anew, not sliced"
    before, after = load_file(source), load_file(result["file"])
    text = {name for name in before if name.startswith("lora_te_")}
    assert text and all(torch.equal(before[name], after[name]) for name in text)


KINDS = {
    "lora_unet_conv_in.dora_scale": "DoRA",
    "unet.conv_in.lora_magnitude_vector": "DoRA",
    "lora_unet_conv_in.hada_w1_a": "LoHa",
    "lora_unet_conv_in.lokr_w1": "LoKr",
    "lora_unet_conv_in.oft_blocks": "OFT",
    "lora_unet_conv_in.lora_mid.weight": "Tucker",
    "lora_unet_conv_in.diff": "whole differences",
}


@pytest.mark.parametrize("name", KINDS)
def test_what_is_no_product_of_two_matrices_is_refused(both: Pair, name: str, tmp_path: Path) -> None:
    save_file({name: torch.ones(2, 2)}, tmp_path / "lora.safetensors")
    with pytest.raises(DtkError, match=rf"cannot slice it[\s\S]*{KINDS[name]}[\s\S]*merge it into the dense"):
        carry(tmp_path / "lora.safetensors", tmp_path / "out", both.pruned)
    assert not (tmp_path / "out").exists()


WRONG = {
    "made for another model": {"unet.conv_in.lora_A.weight": torch.ones(2, 9, 3, 3)},
    "changes a layer that the dense model does not have": {"unet.conv_nowhere.lora_A.weight": torch.ones(2, 4)},
    "holds NaN": {"unet.conv_in.lora_A.weight": torch.full((2, 4, 3, 3), math.nan)},
    "does not know what": {"weight": torch.ones(2, 2, 2)},
}


@pytest.mark.parametrize("words", WRONG)
def test_what_is_of_another_model_is_refused(both: Pair, words: str, tmp_path: Path) -> None:
    save_file(WRONG[words], tmp_path / "lora.safetensors")
    with pytest.raises(DtkError, match=words):
        carry(tmp_path / "lora.safetensors", tmp_path / "out", both.pruned)


def test_an_absent_file_is_refused(both: Pair, tmp_path: Path) -> None:
    with pytest.raises(DtkError, match="No such file or folder"):
        carry(tmp_path / "nothing", tmp_path / "out", both.pruned)
