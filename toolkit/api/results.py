"""What the functions return: frozen and typed, a class per verb."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from toolkit.api.result import Result
from toolkit.report import comparison_tables, headline, tables, words
from toolkit.report.results import worst_error


@dataclass(frozen=True)
class Size:
    """Parameters, and MACs of one call at batch 1 (attention products included; one MAC is two FLOPs)."""

    params: int
    macs: int


class PlanSummary(Result):
    """The configuration a target leads to."""

    _tables = tables.plan

    @property
    def dense(self) -> Size:
        return Size(**self._record["dense"])

    @property
    def achieved(self) -> Size:
        """The size of the compressed model."""
        return Size(self._record["achieved"]["params"], self._record["achieved"]["macs"])

    @property
    def params_fraction(self) -> float:
        """Compressed over dense."""
        return float(self._record["achieved"]["params_fraction"])

    @property
    def macs_fraction(self) -> float:
        """Compressed over dense."""
        return float(self._record["achieved"]["macs_fraction"])

    @property
    def widths(self) -> dict[str, tuple[int, int]]:
        """The level widths or numbers of blocks by name: (dense, compressed)."""
        return {width["name"]: (width["dense"], width["achieved"]) for width in self._record["widths"]}

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        """Each bound of the target: (requested, achieved), fractions of dense or absolute (counts, ms)."""
        return {bound["bound"]: (bound["requested"], bound["achieved"]) for bound in self._record.get("bounds", [])}

    @property
    def chosen_by(self) -> str:
        """What decided among the configurations that meet the target."""
        return str(self._record["chosen_by"])

    @property
    def latency_fraction(self) -> float | None:
        """Measured latency, compressed over dense; None if the target is no latency."""
        return self._record["latency"]["fraction"] if self._record.get("latency") else None


class Recovery(Result):
    """How far recovery went."""

    _tables = tables.recovery

    @property
    def steps(self) -> int:
        """Training steps done in all."""
        return int(self._record["steps"])

    @property
    def losses(self) -> dict[str, float]:
        """Each loss in the last step, and their weighted sum as ``total``."""
        return dict(self._record["losses"])


class Evaluation(Result):
    """How good both models are, against real images and against each other from the same noise."""

    _tables = tables.evaluation
    _pictures = ("pairs.png",)

    @property
    def metric(self) -> str:
        """The Frechet distance's name, with its feature extractor."""
        return str(self._record["frechet_distance"]["dense"]["metric"])

    @property
    def distances(self) -> dict[str, float]:
        """Frechet distances to real images: ``dense``, ``compressed``, and ``floor`` (other real images) if known."""
        distances = self._record["frechet_distance"]
        return {name: distances[name]["value"] for name in ("dense", "compressed", "floor") if name in distances}

    @property
    def excess_ratio(self) -> float | None:
        """(compressed - floor) / (dense - floor): 1 is as good as dense; None if there is no floor below dense."""
        return self._record["frechet_distance"]["excess_ratio"]

    @property
    def artefacts(self) -> dict[str, float]:
        """Frechet distances of what was exported and judged as well, such as ``openvino:bf16``."""
        judged = self._record.get("artefacts", {})
        return {name: float(figures["frechet_distance"]["value"]) for name, figures in judged.items()}

    @property
    def ssim(self) -> float:
        """Mean structural similarity of pairs of the same noise."""
        return float(self._record["pairs"]["ssim"])

    @property
    def psnr_db(self) -> float | None:
        """Peak signal-to-noise ratio of pairs of the same noise; None if they are equal."""
        return self._record["pairs"]["psnr_db"]


class Export(Result):
    """The ONNX files and how far each is from torch."""

    _tables = tables.parity

    @property
    def files(self) -> dict[str, str]:
        """ONNX files by name, and engines by name, relative to the run folder."""
        built = self._record["onnx"] | self._record.get("engines", {})
        return {Path(entry["file"]).name: entry["file"] for entry in built.values()}

    @property
    def relative_error(self) -> float | None:
        """The largest error of the compressed model's files, relative to the largest value; None if not compared."""
        return worst_error(self._record)


@dataclass(frozen=True)
class Speedup:
    """Dense over compressed latency with its interval, and what may be said of it."""

    value: float
    low: float
    high: float
    confidence: float
    verdict: str


class Profile(Result):
    """Size, latency and memory, dense and compressed side by side."""

    _tables = tables.profile

    @property
    def verdict(self) -> str:
        """Images per second, what the dense model's user had and what there is now, in one sentence."""
        return words.sentence(headline.speed({"profile": self._record}))

    @property
    def runners(self) -> list[str]:
        return list(self._record["runners"])

    @property
    def batches(self) -> list[int]:
        return [int(batch) for batch in next(iter(self._record["runners"].values()))["latency"]]

    def speedup(self, runner: str, batch: int) -> Speedup:
        """How many times faster the compressed model is. Raises KeyError for what was not measured."""
        return Speedup(**self._record["runners"][runner]["latency"][str(batch)]["speedup"])

    def latency_ms(self, runner: str, batch: int) -> tuple[float, float]:
        """Median latency of one call in milliseconds: (dense, compressed)."""
        cell = self._record["runners"][runner]["latency"][str(batch)]
        return cell["dense"]["p50_ms"], cell["compressed"]["p50_ms"]


class Verification(Result):
    """Whether what is deployed is as good as the dense model, within a margin."""

    _tables = tables.verified

    @property
    def verdict(self) -> Literal["pass", "fail", "inconclusive"]:
        """``pass``: its excess over the distance between real images is within the margin; ``fail``: it is not.

        Each at 95 %.
        """
        answer: Literal["pass", "fail", "inconclusive"] = self._record["verdict"]
        return answer

    @property
    def exit_code(self) -> int:
        """What the command ends with: 0 pass, 1 fail, 3 inconclusive."""
        return {"pass": 0, "fail": 1, "inconclusive": 3}[self.verdict]

    @property
    def ratio(self) -> float | None:
        """Kernel distance to real images over the dense model's; None if the dense model's is not above zero."""
        return self._record["ratio"]

    @property
    def bounds(self) -> tuple[float | None, float | None]:
        """One-sided bounds of the ratio at 95 %: at least, at most."""
        return self._record["low"], self._record["high"]

    @property
    def power(self) -> float:
        """How likely a model exactly as good as the dense one passes with as many images."""
        return float(self._record["power"])


class Handoff(Result):
    """A model repository that a server takes as it is."""

    _tables = tables.handed


class Report(Result):
    """Everything a run found; ``RUN/report.html`` shows it."""

    _tables = tables.report
    _pictures = ("evaluate/pairs.png",)

    @property
    def verdict(self) -> str:
        """The run in one sentence."""
        return str(self._record["verdict"])

    @property
    def page(self) -> Path | None:
        return self.folder / "report.html" if self.folder else None

    @property
    def missing(self) -> dict[str, str]:
        """The stages that have not run, each with the command that runs it."""
        return dict(self._record["missing"])


class Comparison(Result):
    """Several runs side by side."""

    _tables = comparison_tables.either


class Sweep(Result):
    """Quality against latency over several targets."""

    _tables = comparison_tables.points
    _pictures = ("pareto.svg",)

    @property
    def runs(self) -> list[str]:
        """The runs that met their target: folders below the sweep's own."""
        return list(self._record["runs"])

    @property
    def best(self) -> str:
        """The run closest to real images, by the Frechet distance, in any number of steps."""
        compressed = [point for point in self._record["points"] if point["kind"] == "compressed"]
        return str(min(compressed, key=lambda point: point["distance"])["model"])


class Imported(Result):
    """A checkpoint of another code base as a diffusers folder."""

    _tables = comparison_tables.imported


class Carried(Result):
    """An add-on of the dense model, made to fit the compressed one."""

    _tables = comparison_tables.carried

    @property
    def kind(self) -> str:
        """What the add-on is, such as LoRA."""
        return str(self._record["kind"])

    @property
    def file(self) -> Path:
        """What was written."""
        return Path(self._record["file"])

    @property
    def removed(self) -> dict[str, str]:
        """The layers that are left out, each with the reason."""
        return dict(self._record["removed"])


class Published(Result):
    """A model card, and where the model can be had."""

    _tables = comparison_tables.published

    @property
    def card(self) -> Path:
        """The card that was written."""
        return Path(self._record["card"])

    @property
    def url(self) -> str | None:
        """The hub's page, None if nothing was uploaded."""
        return self._record["url"]


class Diagnosis(Result):
    """Whether what is installed fits together, and which runners would run here."""

    _tables = comparison_tables.doctor

    @property
    def ok(self) -> bool:
        """Whether nothing is in conflict."""
        return bool(self._record["ok"])


class Known(Result):
    """Names and descriptions of one kind."""

    _tables = comparison_tables.known

    @property
    def names(self) -> list[str]:
        return list(self._record)
