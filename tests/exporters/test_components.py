"""Autoencoder, text encoder and class embedding as ONNX files compute what torch computes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL

from exporters.component_parity import compare, components, write_components
from exporters.components import Table, write_tokenizers
from exporters.settings import ExportSettings
from tests.latent import CLASSES, FOLDERS
from toolkit.core.errors import DtkError
from toolkit.models.autoencoder import open_autoencoder
from toolkit.models.conditioners import open_conditioner
from toolkit.runners.onnxruntime import Session

NAMES = {
    "unconditional": ["decoder", "encoder"],
    "class": ["decoder", "encoder", "conditioner"],
    "labels": ["decoder", "encoder"],
    "caption": ["decoder", "encoder", "conditioner"],
    "sdxl": ["decoder", "encoder", "conditioner"],
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """The half-precision components of a VQ model of classes and of two KL models of captions."""
    folders = {}
    for kind in ("class", "caption", "sdxl"):
        folders[kind] = tmp_path_factory.mktemp(kind)
        model = FOLDERS[kind](folders[kind] / "model")
        found = write_components(model, ExportSettings(dtype="fp16"), folders[kind])
        (folders[kind] / "parity.json").write_text(json.dumps(found))
    yield folders


@pytest.mark.parametrize("kind", FOLDERS)
def test_what_stands_around_each_kind_of_model_is_known(kind: str, tmp_path: Path) -> None:
    assert [component.name for component in components(FOLDERS[kind](tmp_path))] == NAMES[kind]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["class", "caption"])
def test_half_precision_is_within_tolerance_at_every_batch_and_size(kind: str, written: dict[str, Path]) -> None:
    parity = json.loads((written[kind] / "parity.json").read_text())
    assert list(parity) == NAMES[kind]
    channels = 3 if kind == "class" else 4
    assert set(parity["decoder"]["relative_error"]) == {f"{b}x{channels}x8x8" for b in (1, 3)} | {f"1x{channels}x16x24"}
    assert set(parity["encoder"]["relative_error"]) == {"1x3x16x16", "3x3x16x16", "1x3x32x48"}
    for found in parity.values():
        assert max(found["relative_error"].values()) < 1e-2
    assert max(parity["decoder"]["relative_error"].values()) > 0, "half precision computes something else than float32"


@pytest.mark.slow
def test_a_decoder_that_half_precision_does_not_hold_is_written_in_single(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SDXL's first decoder has values beyond float16's 65,504."""
    model = FOLDERS["caption"](tmp_path / "model")
    vae = AutoencoderKL.from_pretrained(model.root / "vae")
    with torch.no_grad():
        first = vae.decoder.conv_in
        first.weight.mul_(3e4 / first.weight.abs().max())
    vae.save_pretrained(model.root / "vae")
    for _ in range(2):  # the second finds the files
        found = write_components(model, ExportSettings(dtype="fp16"), tmp_path)
        dtypes = {name: json.loads((tmp_path / f"{name}.json").read_text())["dtype"] for name in found}
        assert dtypes == {"decoder": "fp32", "encoder": "fp16", "conditioner": "fp16"}
        assert max(found["decoder"]["relative_error"].values()) < found["decoder"]["tolerance"] < 1e-3
    assert caplog.text.count("The decoder is exported in fp32: in fp16, relative error") == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["class", "caption"])
def test_decoding_is_that_of_the_autoencoder_with_its_scale(kind: str, written: dict[str, Path]) -> None:
    autoencoder = open_autoencoder(FOLDERS[kind](written[kind] / "again"))
    assert autoencoder is not None
    channels = 3 if kind == "class" else 4
    latents = torch.linspace(-2, 2, 2 * channels * 64).reshape(2, channels, 8, 8)
    with closing(Session(written[kind] / "decoder.onnx")) as session:
        images = session({"latents": latents})["images"]
    expected = autoencoder.decode(latents)
    assert float((images - expected).abs().max() / expected.abs().max()) < 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["caption", "sdxl"])
def test_a_caption_is_tokenised_and_encoded_without_transformers(kind: str, written: dict[str, Path]) -> None:
    from tokenizers import Tokenizer

    conditioner = open_conditioner(FOLDERS[kind](written[kind] / "again"))
    files = {"input_ids": "tokenizer.json"} | ({"input_ids_2": "tokenizer_2.json"} if kind == "sdxl" else {})
    captions = ["a cat", "", "A very long caption that does not fit", "grüße 猫"]
    ids = {
        name: torch.tensor([e.ids for e in Tokenizer.from_file(str(written[kind] / file)).encode_batch(captions)])
        for name, file in files.items()
    }
    with closing(Session(written[kind] / "conditioner.onnx")) as session:
        made = session(ids)
    expected = conditioner(captions)
    assert made.keys() == expected.keys()
    for name, tensor in expected.items():
        assert made[name].shape == tensor.shape
        assert float((made[name] - tensor).abs().max() / tensor.abs().max()) < 1e-2


def test_a_table_gives_a_context_of_one_token_and_only_captions_have_a_tokenizer(tmp_path: Path) -> None:
    conditioner = open_conditioner(FOLDERS["class"](tmp_path / "model"))
    rows = Table(conditioner.table)(torch.arange(CLASSES + 1))  # type: ignore[attr-defined]
    torch.testing.assert_close(rows, conditioner([*range(CLASSES), None])["encoder_hidden_states"])
    write_tokenizers(conditioner, tmp_path)
    assert not list(tmp_path.glob("*.json"))


@pytest.mark.slow
def test_a_component_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    (table,) = (c for c in components(FOLDERS["class"](tmp_path / "model")) if c.name == "conditioner")
    path = table.write(tmp_path, dtype="fp32", opset=21)
    other = FOLDERS["class"](tmp_path / "other", seed=1)
    (wrong,) = (c for c in components(other) if c.name == "conditioner")
    with pytest.raises(DtkError, match="The conditioner as ONNX fp32 does not compute what torch computes"):
        compare(wrong, path, ExportSettings())
