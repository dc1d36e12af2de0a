"""An embedding of the dense model's text encoder is one of the compressed model's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from tests.importing.pruned import Pair, pair
from tests.latent import WIDTH
from toolkit.core.errors import DtkError, UsageError
from toolkit.importing.carry import carry

TOKEN = "<dotted>"


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair(tmp_path_factory.mktemp("pair"), "narrower")


def embedding(path: Path, width: int = WIDTH) -> Path:
    save_file({TOKEN: torch.linspace(-1, 1, 2 * width).view(2, width)}, path)
    return path


@pytest.mark.slow
def test_the_stock_pipeline_reads_the_same_vectors(both: Pair, tmp_path: Path) -> None:
    source = embedding(tmp_path / "learned_embeds.safetensors")
    result = carry(source, tmp_path / "out", both.pruned)
    assert (result["kind"], result["unchanged"], result["removed"]) == ("textual inversion", 1, {})
    pipeline: StableDiffusionPipeline = both.pipeline()
    pipeline.load_textual_inversion(result["file"])
    ids = pipeline.tokenizer.convert_tokens_to_ids([TOKEN, f"{TOKEN}_1"])
    rows = pipeline.text_encoder.get_input_embeddings().weight[ids]
    torch.testing.assert_close(rows, load_file(source)[TOKEN])


def test_vectors_of_another_text_encoder_are_refused(both: Pair, tmp_path: Path) -> None:
    source = embedding(tmp_path / "learned_embeds.safetensors", WIDTH + 4)
    with pytest.raises(DtkError, match=rf"another text encoder[\s\S]*{TOKEN} \(2, 16\)[\s\S]*'text_encoder': 12"):
        carry(source, tmp_path / "out", both.pruned)


def test_a_text_encoder_that_is_no_copy_is_refused(both: Pair, tmp_path: Path) -> None:
    place = both.pruned.compressed.root / "text_encoder" / "model.safetensors"
    before = place.read_bytes()
    tensors = load_file(place)
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, place)
    try:
        with pytest.raises(DtkError, match="text_encoder is not the dense model's"):
            carry(embedding(tmp_path / "learned_embeds.safetensors"), tmp_path / "out", both.pruned)
    finally:
        place.write_bytes(before)


def test_the_original_is_not_replaced(both: Pair, tmp_path: Path) -> None:
    source = embedding(tmp_path / "learned_embeds.safetensors")
    before = source.read_bytes()
    with pytest.raises(UsageError, match=r"learned_embeds.safetensors itself would be replaced[\s\S]*another folder"):
        carry(source, tmp_path, both.pruned)
    assert source.read_bytes() == before
