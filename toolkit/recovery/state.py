"""All that training needs to continue: weights, their average, the optimiser, and the step; saved as safetensors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from toolkit.core.errors import UsageError, first_line
from toolkit.core.files import replacing

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass
class State:
    """The model in training, the moving average of its weights, its optimiser, and the steps done.

    ``scaler`` is that of fp16 training, ``losses`` are those of the last step, ``seconds`` what all steps so far took,
    ``saved`` the step of the last checkpoint, None if there is none.
    """

    model: nn.Module
    average: dict[str, torch.Tensor]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None = None
    step: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    saved: int | None = None

    def update_average(self, decay: float) -> None:
        """Move the average towards the weights, keeping ``decay`` of it."""
        with torch.no_grad():
            weights: list[torch.Tensor] = [self.model.get_parameter(name) for name in self.average]
            torch._foreach_lerp_(list(self.average.values()), weights, 1 - decay)


def named_tensors(state: State) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of the state: model/NAME, average/NAME, optimizer/NAME/MOMENT."""
    yield from ((f"model/{name}", tensor) for name, tensor in state.model.state_dict().items())
    yield from ((f"average/{name}", tensor) for name, tensor in state.average.items())
    for name, parameter in state.model.named_parameters():
        moments = state.optimizer.state.get(parameter, {})
        yield from ((f"optimizer/{name}/{moment}", moments[moment]) for moment in MOMENTS if moment in moments)


def save_checkpoint(folder: Path, state: State, identity: str, keep: int) -> Path:
    """Write ``folder``/step-NNNNNNNN.safetensors and remove all but the last ``keep``.

    ``identity`` says what is being trained; only a run of the same identity takes the checkpoint up.
    """
    path = folder / f"step-{state.step:08d}.safetensors"
    with replacing(path) as temporary:
        tensors = {name: tensor.detach().contiguous() for name, tensor in named_tensors(state)}
        try:
            facts = {"step": state.step, "losses": state.losses, "seconds": state.seconds}
            if state.scaler is not None:
                facts["scaler"] = state.scaler.state_dict()
            save_file(tensors, temporary, metadata={"identity": identity, "facts": json.dumps(facts)})
        except SafetensorError as error:  # its way of saying that the disk is full
            raise OSError(str(error)) from error
    for old in checkpoints(folder)[keep:]:
        old.unlink()
    state.saved = state.step
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the latest first."""
    return sorted((p for p in folder.glob("step-*.safetensors") if re.fullmatch(r"step-\d+", p.stem)), reverse=True)


def restore(folder: Path, state: State, identity: str, last: int) -> list[str]:
    """Load the latest whole checkpoint of this identity; returns what was passed over.

    What is damaged is removed: it would otherwise count among the latest, and the new ones would go in its stead. What
    is of another training steps aside until that one is requested again, or ``remove_others``. Raises UsageError if the
    checkpoint lies beyond step ``last``: training continues, never back.
    """
    passed = [f"{name}: of another recovery, kept until this one has ended" for name in _step_aside(folder, identity)]
    for path in checkpoints(folder):
        try:
            with safe_open(path, framework="pt") as file:
                facts = json.loads(file.metadata()["facts"])
                if facts["step"] > last:
                    raise _too_far(facts["step"], last)
                _load(state, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
                state.step, state.losses, state.seconds = facts["step"], facts["losses"], facts["seconds"]
                if state.scaler is not None:
                    state.scaler.load_state_dict(facts["scaler"])
                state.saved = state.step
                return passed
        except (SafetensorError, KeyError, RuntimeError, TypeError) as error:
            passed.append(f"{path.name}: damaged ({first_line(error)})")
            path.unlink()
    return passed


def remove_others(folder: Path) -> None:
    """Remove the checkpoints of other trainings, which stepped aside in ``restore``."""
    for path in folder.glob(f"{_ASIDE}*"):
        path.unlink()


_ASIDE = "aside-"


def _step_aside(folder: Path, identity: str) -> list[str]:
    """Rename the checkpoints of other trainings, and give those of this one their names back; which were renamed."""
    renamed = []
    for path in checkpoints(folder):
        owner = _identity(path)
        if owner not in (identity, None):
            path.rename(folder / f"{_ASIDE}{owner}-{path.name}")
            renamed.append(path.name)
    for path in folder.glob(f"{_ASIDE}{identity}-*"):
        path.rename(folder / path.name.removeprefix(f"{_ASIDE}{identity}-"))
    return renamed


def _identity(path: Path) -> str | None:
    """Whose checkpoint it is; None for one that is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("identity")
    except SafetensorError:
        return None


def _too_far(done: int, requested: int) -> UsageError:
    return UsageError(
        "This recovery is already beyond the requested step.",
        found=f"{done} steps done, {requested} requested",
        do=f"request {done} steps or more, or give another run folder",
    )


def _load(state: State, tensors: dict[str, torch.Tensor]) -> None:
    part: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        group, _, rest = name.partition("/")
        part.setdefault(group, {})[rest] = tensor
    moments = {
        name: {moment: part["optimizer"][f"{name}/{moment}"] for moment in MOMENTS}
        for name, _ in state.model.named_parameters()
    }
    state.model.load_state_dict(part["model"])
    for name, average in state.average.items():
        average.copy_(part["average"][name])
    fused = state.optimizer.param_groups[0].get("fused")  # it counts its steps where its parameters lie

    def moment(name: str, parameter: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
        if name == "step":
            return tensor.to(parameter.device) if fused else tensor
        return torch.empty_like(parameter).copy_(tensor).detach()

    for name, parameter in state.model.named_parameters():
        state.optimizer.state[parameter] = {key: moment(key, parameter, moments[name][key]) for key in MOMENTS}
