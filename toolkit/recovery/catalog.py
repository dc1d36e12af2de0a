"""The known losses, by name."""

from __future__ import annotations

from toolkit.recovery import losses
from toolkit.recovery.losses.base import Loss
from toolkit.registry import entries, entry


def known_losses() -> dict[str, Loss]:
    """Every loss, by name."""
    return entries(losses, "LOSS")


def loss(name: str) -> Loss:
    """The loss called ``name``; an unknown one is refused with the list of known ones."""
    found: Loss = entry(losses, "LOSS", "loss", name)
    return found
