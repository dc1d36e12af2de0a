"""The class or caption that each sample is made for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toolkit.core.noise import generator
from toolkit.data.conditions import Condition
from toolkit.data.images import Images
from toolkit.models.conditioning import Conditioning


@dataclass(frozen=True)
class SampleConditions:
    """Sample i gets the condition of image i of ``reference``, from the start again behind its last.

    So samples and the images they are judged by are of the same classes. Where there is no reference or it has no
    conditions, a class is drawn from the sample's seed, ``seed`` + i, and a caption is the null condition.
    """

    found: Conditioning
    seed: int
    reference: Images | None = None

    @property
    def origin(self) -> str:
        """Where the conditions come from, in words."""
        if self.found.kind == "none":
            return "the model takes none"
        if self._of_reference:
            return "those of the reference images"
        return "drawn from each sample's seed" if self.found.kind == "class" else "the null condition"

    @property
    def key(self) -> str:
        """Names the conditions: equal keys, equal conditions."""
        return self.reference.fingerprint if self.reference and self._of_reference else self.origin

    def __call__(self, numbers: Sequence[int]) -> list[Condition]:
        """The conditions of these samples."""
        if self.reference and self._of_reference:
            return self.reference.conditions(self.found.kind, [number % len(self.reference) for number in numbers])
        if self.found.kind == "class":
            seeds = [self.seed + number for number in numbers]
            return [int(generator("sample class", seed).integers(self.found.classes)) for seed in seeds]
        return [None] * len(numbers)

    @property
    def _of_reference(self) -> bool:
        kind = self.found.kind
        return self.reference is not None and kind != "none" and kind in self.reference.described.values
