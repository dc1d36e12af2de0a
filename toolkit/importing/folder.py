"""A diffusers folder with pickled weights (``.bin``) or those of a variant (``.fp16``): plain safetensors of them.

Every component is converted, with its shards and their index. Weights keep their dtype. Of several files for the same
weights the plain ones go before a variant's, safetensors before pickled ones. A denoiser that came without a scheduler
may be given one; a bare one then gets a place of its own in the folder, and a pipeline if diffusers has one for it.
"""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
from diffusers import DDIMScheduler, DDPMScheduler
from safetensors.torch import save_file

from toolkit.adapters.base import adapter_of
from toolkit.core.errors import DtkError, UsageError
from toolkit.core.files import CARD, files_below, read_json, write_json
from toolkit.data.prepare import MODES
from toolkit.importing.checkpoint import load, tensors_of
from toolkit.models.build import build_model, full_config
from toolkit.models.folder import SCHEDULER_CONFIG, ModelFolder, find_model
from toolkit.models.schedulers import read_scheduler
from toolkit.models.weights import PICKLES, check_finite

NAME = "diffusers"
FILE = re.compile(
    r"(?P<stem>diffusion_pytorch_model|pytorch_model|model)(\.(?P<variant>[a-z]\w*))?(?P<shard>-\d+-of-\d+)?"
    r"\.(?P<kind>bin|safetensors)(?P<index>\.index(\.(?P<of>\w+))?\.json)?"
)
SCHEDULERS: dict[str, Any] = {"ddpm": DDPMScheduler, "ddim": DDIMScheduler}
STEMS = {"pytorch_model": "model"}  # what transformers calls its safetensors


@dataclass(frozen=True)
class _File:
    """A weights file, or the index of several, and what it is called as plain safetensors."""

    path: Path
    variant: str
    kind: str
    plain: str

    @classmethod
    def of(cls, path: Path) -> _File | None:
        match = FILE.fullmatch(path.name)
        if match is None:
            return None
        stem, shard = STEMS.get(match["stem"], match["stem"]), match["shard"] or ""
        index = ".index.json" if match["index"] else ""
        return cls(path, match["variant"] or match["of"] or "", match["kind"], f"{stem}{shard}.safetensors{index}")

    @property
    def whole(self) -> tuple[Path, str]:
        """What it holds at least a part of: the weights of a folder, under the name of the whole."""
        return self.path.parent, re.sub(r"-\d+-of-\d+|\.index\.json", "", self.plain)

    @property
    def rank(self) -> tuple[bool, bool, str]:
        return bool(self.variant), self.kind == "bin", self.variant


logger = logging.getLogger(__name__)


def convert_folder(source: Path, target: Path, scheduler: str | None = None) -> dict[str, Any]:
    """Write a folder of safetensors at ``target``; returns what was made.

    ``scheduler`` is given to a denoiser that has none: "ddpm" or "ddim", with DDPM's noise levels, or the path of a
    scheduler_config.json. Raises DtkError for a folder of anything else, or for a file that holds more than tensors.
    """
    bare, root = find_model(source), target
    given = None if scheduler is None else _scheduler(bare, scheduler)
    if given and not bare.component:
        root = target / adapter_of(bare.class_name).component
    files = {path: _File.of(path) for path in files_below(source) if path.is_file()}
    best: dict[tuple[Path, str], tuple[bool, bool, str]] = {}
    for weights in filter(None, files.values()):
        best[weights.whole] = min(best.get(weights.whole, weights.rank), weights.rank)
    for path, file in files.items():
        place = path.relative_to(source)
        if file is None:
            if path.suffix not in PICKLES and place.parts[0] not in CARD:
                shutil.copyfile(path, _made(root / place))
        elif file.rank == best[file.whole]:
            _convert(file, _made(root / place.parent / file.plain))
    if given:
        _add_scheduler(given, target)
    made = find_model(target)
    config = full_config(made)
    params = build_model(made.class_name, config).num_parameters()
    return {"class": made.class_name, "sample_size": config["sample_size"], "params": params}


def _scheduler(model: ModelFolder, given: str) -> Any:
    if (model.scheduler / SCHEDULER_CONFIG).is_file():
        raise UsageError(f"{model.root} has a scheduler.", found=model.scheduler, do="leave out --scheduler")
    if given in SCHEDULERS:
        made = SCHEDULERS[given]()
        levels, count = made.config, made.config.num_train_timesteps
        described = f"{levels.beta_schedule} from {levels.beta_start} to {levels.beta_end}, {count} timesteps"
        logger.warning("The noise levels are taken to be DDPM's: %s.", described)
        return made
    path = Path(given)
    path = path / SCHEDULER_CONFIG if path.is_dir() else path
    if not path.is_file():
        raise UsageError(f"No such scheduler: {given}.", expected="ddpm, ddim, or a scheduler_config.json")
    return read_scheduler(path)


def _add_scheduler(scheduler: Any, target: Path) -> None:
    """Write a scheduler, and the index of a pipeline if the denoiser makes images of noise and nothing else."""
    scheduler.save_pretrained(target / "scheduler")
    made, index = find_model(target), target / "model_index.json"
    plain = set(made.input_specs()) == {"sample", "timestep"} and made.config["in_channels"] in MODES
    if index.is_file() or not plain:
        return
    value: dict[str, Any] = {"_class_name": "DDPMPipeline", "_diffusers_version": diffusers.__version__}
    value |= {made.component: ["diffusers", made.class_name], "scheduler": ["diffusers", type(scheduler).__name__]}
    write_json(index, value | ({"_class_name": "DDIMPipeline"} if isinstance(scheduler, DDIMScheduler) else {}))


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _convert(file: _File, target: Path) -> None:
    if target.suffix == ".json":
        value = read_json(file.path)
        write_json(target, {**value, "weight_map": _renamed(value["weight_map"])})
    elif file.kind == "safetensors":
        shutil.copyfile(file.path, target)
    else:
        tensors = dict(tensors_of(load(file.path)))
        if not tensors:
            raise DtkError(f"{file.path} holds no tensors by name.", expected="a state dict")
        check_finite(tensors, str(file.path))
        own = {name: tensor.clone().contiguous() for name, tensor in tensors.items()}  # some share their memory
        save_file(own, target, metadata={"format": "pt"})


def _renamed(weight_map: Mapping[str, str]) -> dict[str, str]:
    files = {name: _File.of(Path(name)) for name in set(weight_map.values())}
    return {tensor: saved.plain if (saved := files[name]) else name for tensor, name in weight_map.items()}
