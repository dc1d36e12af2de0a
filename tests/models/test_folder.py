"""Where a model's parts lie, and what goes along when a denoiser is written in the place of another."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMPipeline, DDPMScheduler, DiTPipeline, DPMSolverMultistepScheduler
from safetensors.torch import save_file

from tests.tiny import PLAIN, tiny_dit, tiny_folder, tiny_unet
from toolkit.core.files import folder_sha256, read_json, write_json
from toolkit.models.build import load_denoiser
from toolkit.models.conditioning import CLASS_EMBEDDING
from toolkit.models.folder import find_model
from toolkit.models.save import save_model
from toolkit.models.schedulers import load_scheduler


def test_other_components_go_along_whatever_they_are_linked_to(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "model", **PLAIN)
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "config.json").write_text("{}")
    (folder.root / "vae").symlink_to(tmp_path / "shared")
    index = read_json(folder.root / "model_index.json") | {"vae": ["diffusers", "AutoencoderKL"]}
    write_json(folder.root / "model_index.json", index)
    (folder.root / "loop").symlink_to(folder.root)
    (folder.root / "gone").symlink_to(tmp_path / "nowhere")
    (folder.root / "old.bin").write_bytes(b"pickled")
    (folder.root / "README.md").write_text("the dense model's card")
    before = folder_sha256(folder.root)
    save_model(folder, load_denoiser(folder), tmp_path / "new")
    after = folder_sha256(tmp_path / "new", without=("unet",))
    assert after == {n: h for n, h in before.items() if n not in ("old.bin", "README.md") and not n.startswith("unet/")}
    assert "vae/config.json" in after and not list((tmp_path / "new").rglob("loop"))


def test_what_a_pipeline_does_not_name_stays_behind(tmp_path: Path) -> None:
    """A trainer's checkpoints, an average of the weights, all weights in a single file: each as large as the model."""
    folder = tiny_folder(tmp_path / "model", **PLAIN)
    for left in ("checkpoint-500/unet", "unet_ema"):
        shutil.copytree(folder.denoiser, folder.root / left)
    (folder.root / "all.safetensors").write_bytes(b"weights")
    (folder.root / "LICENSE.md").write_text("yours")
    save_file({"embedding.weight": torch.zeros(2, 2)}, folder.root / CLASS_EMBEDDING)
    save_model(folder, load_denoiser(folder), tmp_path / "new")
    kept = {path.name for path in (tmp_path / "new").iterdir()}
    assert kept == {"unet", "scheduler", "model_index.json", "LICENSE.md", CLASS_EMBEDDING}


def test_a_pipeline_may_lie_flat(tmp_path: Path) -> None:
    """As google/ddpm-cifar10-32 does; what is written of it has a folder for each part."""
    network, scheduler, flat = tiny_unet(**PLAIN), DDPMScheduler(beta_end=0.03), tmp_path / "flat"
    DDPMPipeline(network, scheduler).save_pretrained(flat)
    for part in ("unet", "scheduler"):
        for path in (flat / part).iterdir():
            path.rename(flat / path.name)
        (flat / part).rmdir()
    assert load_scheduler(find_model(flat)).config.beta_end == 0.03
    save_model(find_model(flat), network, tmp_path / "new")
    for folder in (flat, tmp_path / "new"):
        pipeline = DDPMPipeline.from_pretrained(folder)
        assert pipeline.scheduler.config.beta_end == 0.03
        assert torch.equal(pipeline.unet.conv_in.weight, network.conv_in.weight)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["model_index.json", "scheduler", "unet"]


def test_the_published_dit_is_known_by_its_former_name(tmp_path: Path) -> None:
    """facebook/DiT-XL-2-256 names a class that diffusers has split since, with fields that are of the others."""
    dit, root = tiny_dit(), tmp_path / "model"
    DiTPipeline(dit, AutoencoderKL(), DPMSolverMultistepScheduler()).save_pretrained(root)
    others = {"cross_attention_dim": None, "double_self_attention": False, "num_vector_embeds": None}
    former = {"_class_name": "Transformer2DModel", "_diffusers_version": "0.12.0.dev0"}
    config = root / "transformer" / "config.json"
    write_json(config, read_json(config) | others | former)
    index = read_json(root / "model_index.json") | {"transformer": ["diffusers", "Transformer2DModel"]}
    write_json(root / "model_index.json", index)
    folder = find_model(root)
    assert folder.class_name == type(dit).__name__
    save_model(folder, load_denoiser(folder), tmp_path / "new")
    for place in (root, tmp_path / "new"):
        again = DiTPipeline.from_pretrained(place).transformer
        assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in dit.state_dict().items())
