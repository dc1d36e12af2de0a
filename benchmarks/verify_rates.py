"""How often does `dtk verify` err?

    python benchmarks/verify_rates.py --output benchmarks/results/verify_rates.json

Features are drawn whose true excess over the real ones is known: unit Gaussians, skewed ones (exponential) and
heavy-tailed ones (Student, 8 degrees of freedom), shifted by a step that makes the artefact's kernel distance a chosen
multiple of the dense model's. At the margin at most 5 % may pass and at most 5 % may fail; a model as good as the dense
one should pass as often as the power says; a damaged one should fail. Needs no network and no model.
"""

from __future__ import annotations

import argparse
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import brentq
from scipy.stats import binomtest

from toolkit.core.environment import machine, versions
from toolkit.core.files import write_json
from toolkit.evaluation.noninferiority import ALPHA, decide, measure_excess

MARGIN, SHIFT = 0.05, 1.0
RATIOS = {"as good as dense": 1.0, "at the margin": 1 + MARGIN, "damaged": 1.5}
DRAWS = {
    "normal": lambda random, shape: random.standard_normal(shape),
    "skewed": lambda random, shape: random.exponential(size=shape) - 1,
    "heavy tails": lambda random, shape: random.standard_t(8, size=shape) * (6 / 8) ** 0.5,
}


def truth(shift: float, width: int) -> float:
    """The kernel distance of independent features of unit variance to themselves with one of them shifted.

    The kernel (x.y / D + 1)^3 compares the first three moments. Only those that hold the shifted axis differ: the mean
    by s, the second moment by s^2, the third by 3 s + s^3 on the axis and by s with each other axis twice.
    """
    third = (3 * shift + shift**3) ** 2 + 3 * (width - 1) * shift**2
    return 3 * shift**2 / width + 3 * shift**4 / width**2 + third / width**3


def trial(kind: str, ratio: float, pairs: int, width: int, alike: float, seed: int) -> Any:
    random, draw = np.random.default_rng([seed, pairs, width]), DRAWS[kind]
    dense, own, real = draw(random, (3, pairs, width))
    taken = random.random((pairs, 1)) < alike  # a pair has all in common or nothing: the marginals stay as they are
    other = np.where(taken, dense, own)
    dense = dense.copy()
    dense[:, 0] += SHIFT
    other[:, 0] += brentq(lambda shift: truth(shift, width) - ratio * truth(SHIFT, width), 0, 9)
    return decide(measure_excess(dense, other, real), MARGIN)


def rates(found: list[Any], state: str) -> dict[str, Any]:
    counts = Counter(one.verdict for one in found)
    record: dict[str, Any] = {name: counts[name] / len(found) for name in ("pass", "fail", "inconclusive")}
    record["mean_power"] = float(np.mean([one.power for one in found]))
    if state == "at the margin":
        for answer in ("pass", "fail"):
            test = binomtest(counts[answer], len(found), ALPHA, alternative="greater")
            record[f"p_value_of_more_than_stated_{answer}"] = float(test.pvalue)
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--pairs", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--width", type=int, default=16, help="features of an image")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/verify_rates.json"))
    options = parser.parse_args()
    results: dict[str, Any] = {"machine": machine(), "versions": versions(), "margin": MARGIN, "alpha": ALPHA}
    results |= {"trials": options.trials, "width": options.width, "shift": SHIFT, "rates": []}
    for kind, pairs, alike, state in product(DRAWS, options.pairs, (0.9, 1.0), RATIOS):
        seeds = range(options.trials)
        found = [trial(kind, RATIOS[state], pairs, options.width, alike, seed) for seed in seeds]
        case = {"features": kind, "pairs": pairs, "pairs_in_common": alike, "artefact": state}
        results["rates"].append(case | rates(found, state))
        print(results["rates"][-1], flush=True)
    write_json(options.output, results)


if __name__ == "__main__":
    main()
