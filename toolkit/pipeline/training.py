"""A training in a folder: taken up at its last whole checkpoint, logged, and saved as it goes on."""

from __future__ import annotations

import logging
from pathlib import Path

from toolkit.core.progress import Progress
from toolkit.data.examples import Examples
from toolkit.recovery.held_out import HeldOut
from toolkit.recovery.log import Log
from toolkit.recovery.loop import Training, learning_rate, train
from toolkit.recovery.objective import Recovery
from toolkit.recovery.state import State, remove_others, restore, save_checkpoint

logger = logging.getLogger(__name__)


def train_up_to(
    training: Training,
    state: State,
    folder: Path,
    identity: str,
    progress: Progress,
    work: str,
    *,
    after: int = 0,
    held_out: Examples | None = None,
) -> None:
    """Go on from the last whole checkpoint in ``folder``, and keep the log and the new checkpoints there.

    A tracker counts on from ``after``, the steps of the training before.
    """
    settings, main = training.settings, training.accelerator.is_main_process
    with training.accelerator.main_process_first():  # it removes what is damaged; the others find what is left
        for passed in restore(folder / "checkpoints", state, identity, settings.steps):
            logger.warning("Passed over the checkpoint %s.", passed)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    tracked = training.accelerator.log

    def track(values: dict[str, float], *, step: int) -> None:
        tracked(values, step=after + step)

    log = Log(folder / "log.jsonl", settings.log_every, state.step, track) if main else None
    judge = None
    if main and held_out is not None and isinstance(training.objective, Recovery) and state.step < settings.steps:
        judge = HeldOut(training.objective, held_out, settings.seed, folder / "held_out.json", state.step)
        judge(state.step, state.model, state.average)
    for losses in train(training, state):
        if log:
            log(state.step, settings.batch_size, losses, learning_rate(settings, state.step - 1))
        if main and (state.step % settings.checkpoint_every == 0 or state.step == settings.steps):
            save_checkpoint(folder / "checkpoints", state, identity, settings.keep_checkpoints)
            if judge:
                judge(state.step, state.model, state.average)
        progress(work, state.step, settings.steps)
    if main:
        remove_others(folder / "checkpoints")
