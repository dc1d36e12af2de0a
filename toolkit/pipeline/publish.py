"""``dtk publish``: a model card into RUN/model, and the folder to the hub if a repository is named.

README.md and card/ are about the model and no part of it: no hash of a model counts them (toolkit.core.files.CARD), so
that publishing makes no stage stale.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub

from toolkit.core.errors import DtkError, first_line
from toolkit.core.files import CARD, read_json, replacing, write_json, write_text
from toolkit.diffusion.few_steps import folded_guidance, own_steps, taught_steps
from toolkit.models.conditioning import find_conditioning
from toolkit.models.folder import ModelFolder
from toolkit.models.schedulers import load_scheduler
from toolkit.pipeline import stages
from toolkit.pipeline.job import Job
from toolkit.report.card import PICTURE, PLAN, Identity, card, public_name


def publish(job: Job, repository: str | None, licence: str | None, *, private: bool) -> dict[str, Any]:
    """Write README.md, card/plan.json and the picture into RUN/model, and upload the folder if there is a repository.

    ``licence`` None is that of the dense model's own card. Raises DtkError if the hub refuses.
    """
    model, value = job.compressed, stages.report(job)
    licence = licence or _licence(job.dense.root / "README.md")
    picture = job.run.path / "evaluate" / "pairs.png"
    shown = picture.is_file() and "evaluate" not in value["stale"]
    identity = Identity(
        name=repository.rpartition("/")[2] if repository else f"{public_name(value['model'])}, compressed",
        place=repository or "FOLDER",
        licence=licence,
        task="text-to-image" if find_conditioning(model).kind == "caption" else "unconditional-image-generation",
        loading=_loading(model, repository or "FOLDER"),
    )
    with replacing(model.root / CARD[1]) as folder:
        folder.mkdir()
        write_json(folder / Path(PLAN).name, _without_paths(read_json(job.run.path / "prune" / "plan.json")))
        if shown:
            shutil.copyfile(picture, folder / Path(PICTURE).name)
    write_text(model.root / CARD[0], str(card(value, identity, picture=shown)))
    url = _upload(model.root, repository, private) if repository else None
    return {"card": str(model.root / CARD[0]), "licence": licence, "url": url}


def _licence(readme: Path) -> str | None:
    """The licence of a model by its card."""
    licence = huggingface_hub.ModelCard.load(readme).data.get("license") if readme.is_file() else None
    return licence if isinstance(licence, str) else None


def _loading(model: ModelFolder, place: str) -> str:
    pipeline = (model.root / "model_index.json").is_file()
    name = "DiffusionPipeline" if pipeline else model.class_name
    subfolder = "" if pipeline or not model.component else f', subfolder="{model.component}"'
    loaded = f'from diffusers import {name}\n\nmodel = {name}.from_pretrained("{place}"{subfolder})'
    return loaded + (_taught_call(load_scheduler(model)) if pipeline else "")


def _taught_call(scheduler: Any) -> str:
    """How a model that was taught few steps is called; nothing for any other."""
    if not taught_steps(scheduler):
        return ""
    unguided = "" if folded_guidance(scheduler) == 1 else ", guidance_scale=1"
    return f"\n# taught to sample so: model(..., num_inference_steps={own_steps(scheduler, 1)}{unguided})"


def _without_paths(value: Any) -> Any:
    """A JSON value with the folders of this machine left out."""
    if isinstance(value, dict):
        return {key: _without_paths(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_paths(entry) for entry in value]
    return public_name(value) if isinstance(value, str) else value


def _upload(folder: Path, repository: str, private: bool) -> str:
    api = huggingface_hub.HfApi()
    try:
        url = api.create_repo(repo_id=repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Compressed model of dtk")
    except Exception as error:  # the hub client raises many kinds: no token, no right, offline
        raise DtkError(
            f"The hub did not take {repository}.",
            found=first_line(error),
            do=f"hf auth login; the card is in {folder}, which can be uploaded by hand",
        ) from error
    return str(url)
