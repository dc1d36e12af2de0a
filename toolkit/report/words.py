"""Figures as people write them."""

from __future__ import annotations

from typing import Any

_LARGE = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_BYTES = ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB"))
VERDICTS = {
    "faster": "{value:.2f}x faster",
    "slower": "slower, {value:.2f}x the speed",
    "no difference": "no faster",
    "inconclusive": "too noisy to say how much faster it is, if at all",
}


def count(value: float) -> str:
    """A count in three digits: 1,112,801 is 1.11 M."""
    return _scaled(value, _LARGE)


def size(value: float) -> str:
    """Bytes in three digits: 4,469,660 is 4.26 MiB."""
    return _scaled(value, _BYTES)


def _scaled(value: float, units: tuple[tuple[float, str], ...]) -> str:
    for unit, name in units:
        if abs(value) >= unit:
            return f"{value / unit:.{_decimals(value / unit)}f} {name}"
    return f"{value:,.0f}"


def _decimals(value: float) -> int:
    """As many as make three digits in all."""
    return 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0


def figure(value: float) -> str:
    """A measured value in about three digits: 1719.7, 12.9, 1.32, 0.0123."""
    if value and abs(value) < 1:
        return f"{value:.3g}"
    return f"{value:,.{max(1, _decimals(value))}f}"


def duration(seconds: float) -> str:
    """Seconds, or minutes and seconds, or hours and minutes."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def sentence(text: str) -> str:
    """The text with a capital in front and a full stop; names in it stay as they are."""
    return f"{text[0].upper()}{text[1:]}."


def interval(bounds: dict[str, Any], places: int = 2) -> str:
    """From low to high."""
    return f"{bounds['low']:.{places}f} to {bounds['high']:.{places}f}"


def speed(faster: dict[str, Any]) -> str:
    """What may be said of a speed-up, by its verdict."""
    if faster["verdict"] == "inconclusive" and faster["low"] > 1:
        return "faster, too noisy to say how much"
    return VERDICTS[faster["verdict"]].format(**faster)


def verdict(decision: dict[str, Any]) -> str:
    """A verification in one line: the answer, by what it was decided, and if it was not, what would decide it."""
    confidence, limit = 1 - decision["alpha"], 1 + decision["margin"]
    excess = "not told from none" if decision["ratio"] is None else f"{decision['ratio']:.3f} times the dense model's"
    bounds = (
        ""
        if decision["high"] is None
        else f" ({confidence:.0%} bounds {decision['low']:.3f} and {decision['high']:.3f})"
    )
    line = (
        f"verify: {decision['verdict'].upper()}: {decision['artefact']}, excess over real images {excess}{bounds}, "
        f"limit {limit:g}; {decision['metric']}, {decision['pairs']:,} pairs, {decision['real']:,} real images, "
        f"power {decision['power']:.2f}"
    )
    if decision["verdict"] != "inconclusive":
        return line
    pairs, real = decision["pairs_to_decide"], decision["real_to_decide"]
    if pairs is None:
        return f"{line}; it lies at the limit, and no number of images decides"
    needed = f"{pairs:,} pairs" + (f" and {real:,} real images" if real > decision["real"] else "")
    return f"{line}; {needed} would decide an excess like this (power {decision['power_requested']:g})"


def machines(value: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """The machines of a report, each with the stages that ran there in words; no words if there was but one."""
    ran: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for stage, machine in value.get("machines", {"": value["machine"]}).items():
        ran.setdefault(places(machine), (machine, []))[1].append(stage)
    return [(machine, ", ".join(stages) if len(ran) > 1 else "") for machine, stages in ran.values()]


def places(machine: dict[str, Any]) -> str:
    """A machine in a line: its GPU, or its processor and cores."""
    processor = f"{machine['processor']}, {machine['cores']} cores"
    return f"{machine['gpu']} ({processor})" if "gpu" in machine else processor
