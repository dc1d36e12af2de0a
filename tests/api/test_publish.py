"""``dtk publish`` and ``--resume-from``: the card makes no stage stale, and what was published is trained further."""

from __future__ import annotations

import inspect
import json
import shutil
from pathlib import Path
from typing import ClassVar

import huggingface_hub
import numpy as np
import pytest
import torch
from diffusers import DDPMPipeline
from safetensors.torch import load_file

import toolkit
from tests.cli.conftest import dtk
from tests.tiny import tiny_folder
from toolkit.core.errors import DtkError, UsageError
from toolkit.core.noise import generator
from toolkit.diffusion.few_steps import few_step_scheduler
from toolkit.models.folder import find_model
from toolkit.models.schedulers import load_scheduler, save_scheduler

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
FAST = {"target": "macs=0.45", "align": 4, "criterion": "magnitude", "calibration_images": 4}
BRIEF = {"steps": 3, "batch_size": 4}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("publish")
    tiny_folder(root / "model")
    (root / "model" / "README.md").write_text("---\nlicense: mit\n---\n# The dense model\n")
    pixels = generator("publish", 0).integers(0, 256, (40, 3, 8, 8), dtype=np.uint8)
    np.savez(root / "images.npz", images=pixels)
    return root


@pytest.fixture(scope="module")
def run(root: Path) -> toolkit.Run:
    return toolkit.compress(root / "model", data=root / "images.npz", out=root / "run", **FAST, **BRIEF)


class FakeHub:
    """Takes what the real HfApi's methods take, and keeps the names of the files."""

    uploads: ClassVar[dict[str, set[str]]] = {}

    def __getattr__(self, name: str) -> object:
        signature = inspect.signature(getattr(huggingface_hub.hf_api.HfApi, name))

        def call(**options: object) -> str:
            signature.bind(self, **options)
            if name == "upload_folder":
                folder = Path(str(options["folder_path"]))
                files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
                self.uploads[str(options["repo_id"])] = files
            return f"https://hub/{options['repo_id']}"

        return call


@pytest.mark.slow
def test_publishing_makes_no_stage_stale(run: toolkit.Run) -> None:
    model = run.folder / "model"
    assert not (model / "README.md").exists(), "the dense model's card is not the compressed one's"
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*.safetensors")}
    published = run.publish()
    assert published.card == model / "README.md" and published.url is None
    text = published.card.read_text()
    assert "license: mit" in text and str(run.folder.parent) not in text + (model / "card" / "plan.json").read_text()
    assert json.loads((model / "card" / "plan.json").read_text())["groups"]
    assert DDPMPipeline.from_pretrained(model).unet.num_parameters() == run.plan().achieved.params
    run.recover()
    assert run.report().to_json()["stale"] == []
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*.safetensors")} == before
    assert published.card.is_file(), "a stage that was current has written the model again"


def test_only_a_named_repository_is_uploaded_to(run: toolkit.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", FakeHub)
    FakeHub.uploads.clear()
    assert dtk("publish", run.folder).code == 0 and not FakeHub.uploads
    answer = dtk("publish", run.folder, "someone/small", "--license", "apache-2.0", "--private", "--json")
    assert answer.code == 0 and answer.json["url"] == "https://hub/someone/small"
    assert {"README.md", "card/plan.json", "model_index.json", WEIGHTS} <= FakeHub.uploads["someone/small"]
    text = (run.folder / "model" / "README.md").read_text()
    assert "license: apache-2.0" in text and 'from_pretrained("someone/small")' in text


def test_a_hub_that_refuses_is_an_error_in_words(run: toolkit.Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def create_repo(self, **options: object) -> None:
            raise OSError("no token")

    monkeypatch.setattr(huggingface_hub, "HfApi", Closed)
    with pytest.raises(DtkError, match=r"did not take someone/small[\s\S]*no token[\s\S]*auth login"):
        run.publish("someone/small")


@pytest.mark.slow
@pytest.mark.parametrize("published", [False, True], ids=["a run", "a published folder"])
def test_recovery_resumes_from_a_compressed_model(
    run: toolkit.Run, root: Path, published: bool, tmp_path: Path
) -> None:
    run.publish()
    source = shutil.copytree(run.folder / "model", tmp_path / "published") if published else run.folder
    other = toolkit.compress(root / "model", data=root / "images.npz", out=tmp_path / "o", resume_from=source, **BRIEF)
    begun, start = load_file(run.folder / "model" / WEIGHTS), load_file(other.folder / "prune" / "model" / WEIGHTS)
    assert all(torch.equal(begun[name], tensor) for name, tensor in start.items())
    ended = load_file(other.folder / "model" / WEIGHTS)
    assert not all(torch.equal(begun[name], tensor) for name, tensor in ended.items())
    assert other.plan().widths == run.plan().widths and other.plan().achieved == run.plan().achieved
    assert not (other.folder / "model" / "card").exists(), "an earlier model's card"


def test_what_cannot_be_resumed_from_is_refused(run: toolkit.Run, root: Path, tmp_path: Path) -> None:
    data, out = root / "images.npz", tmp_path / "out"
    with pytest.raises(DtkError, match=r"does not say how it was pruned[\s\S]*dtk publish writes it"):
        toolkit.compress(root / "model", data=data, out=out, resume_from=root / "model", **BRIEF)
    wide = tiny_folder(tmp_path / "wide", block_out_channels=(16, 32, 48)).root
    with pytest.raises(DtkError, match=r"was not made of[\s\S]*a plan for a UNet2DModel of"):
        toolkit.compress(wide, data=data, out=tmp_path / "other", resume_from=run.folder, **BRIEF)
    with pytest.raises(UsageError, match=r"--align and --target would change nothing[\s\S]*--resume-from"):
        toolkit.compress(root / "model", data=data, out=out, resume_from=run.folder, target="macs=0.5", align=4)


@pytest.mark.parametrize(("guidance", "how"), [(1.0, "=2)"), (4.0, "=2, guidance_scale=1)")])
def test_the_card_says_how_to_call_a_taught_model(guidance: float, how: str, run: toolkit.Run, tmp_path: Path) -> None:
    taught = toolkit.open_run(shutil.copytree(run.folder, tmp_path / "run"))
    model = find_model(taught.folder / "model")
    save_scheduler(few_step_scheduler(load_scheduler(model), 2, "v_prediction", [59, 19], guidance), model.root)
    assert f"num_inference_steps{how}" in taught.publish().card.read_text()
    assert "num_inference_steps" not in run.publish().card.read_text()
