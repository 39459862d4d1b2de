"""What the seeds of a row reached in a column; which rows cannot be told from the best of one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from statistics import fmean

import numpy as np
import pandas as pd

from reports.results.evaluations import KEY, Evaluation
from reports.stats import ALPHA, Comparison, Noise, Test, compare, holm, lowest_p, noise, t_interval

Where = tuple[str, Evaluation]  # the row's label, the column


@dataclass(frozen=True)
class Outcome:
    """Seeds of one configuration under one evaluation, in percent.

    A seed of pretraining counts, with the mean over its evaluation seeds, when all of these are
    there: they share an encoder and are no independent runs.

    Attributes:
        scores: by seed of pretraining, one per evaluation seed.
        lost: what became of the seeds that have no score.
        hash8: of the configuration.
        runs: folders of all of its seeds.
    """

    scores: Mapping[int, tuple[float, ...]]
    lost: Mapping[int, str]
    hash8: str
    runs: tuple[str, ...]

    @cached_property
    def by_seed(self) -> dict[int, float]:
        """Score by seed of pretraining."""
        return {seed: fmean(scores) for seed, scores in self.scores.items()}

    @property
    def n(self) -> int:
        """Seeds of pretraining that have a score."""
        return len(self.scores)

    @property
    def asked(self) -> int:
        """Seeds of pretraining that were planned."""
        return self.n + len(self.lost)

    @cached_property
    def mean(self) -> float:
        """Over seeds of pretraining; NaN without one."""
        return fmean(self.by_seed.values()) if self.n else math.nan

    @cached_property
    def std(self) -> float:
        """Sample standard deviation over seeds of pretraining; NaN with fewer than two."""
        return float(np.std(list(self.by_seed.values()), ddof=1)) if self.n > 1 else math.nan

    @property
    def told(self) -> str:
        """Mean, and deviation where there is one: "58.95 ± 0.10"."""
        return shown(self.mean) + (f" ± {shown(self.std)}" if self.n > 1 else "")

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Student's t interval of the mean."""
        return t_interval(list(self.by_seed.values()))

    @cached_property
    def noise(self) -> Noise:
        """Of pretraining and of the probe, apart."""
        return noise(list(self.scores.values()))

    def numbers(self) -> dict[str, float | str]:
        """What a CSV has of it: ``low`` and ``high`` are the 95% interval of the mean."""
        whys = ("failed", "running", "missing", "invalid")
        return {
            "mean": self.mean,
            "std": self.std,
            "low": self.interval[0],
            "high": self.interval[1],
            "n": self.n,
            **{why: self.lost_by().get(why, 0) for why in whys},
            "seeds": " ".join(map(str, self.scores)),
            "hash8": self.hash8,
        }

    def lost_by(self) -> dict[str, int]:
        """How many seeds were lost to what."""
        return dict(sorted(Counter(self.lost.values()).items()))


def outcomes(frame: pd.DataFrame, label: str = "label") -> dict[Where, Outcome]:
    """Reduce a frame of results to its cells, in the order of its rows.

    Args:
        frame: as `reports.results.collect.collect` makes it; the main metrics count.
        label: the column of the frame that tells rows apart.
    """
    main = frame[frame["main"]]
    wheres = zip(*(main[name].tolist() for name in (label, *KEY)), strict=True)
    results = zip(*(main[name].tolist() for name in _RESULT), strict=True)
    cells: dict[tuple[str, ...], list[tuple[int, float, str, str, str]]] = {}
    for where, result in zip(wheres, results, strict=True):
        cells.setdefault(where, []).append(result)
    return {(name, Evaluation(*key)): _outcome(own) for (name, *key), own in cells.items()}


_RESULT = ("seed", "value", "status", "hash8", "run")


def _outcome(results: Sequence[tuple[int, float, str, str, str]]) -> Outcome:
    lost: dict[int, str] = {}
    for seed, _, status, _, _ in results:
        if status != "ok":
            lost.setdefault(seed, status)
    scores: dict[int, tuple[float, ...]] = {}
    for seed, value, *_ in sorted(results, key=lambda result: result[0]):
        if seed not in lost:
            scores[seed] = (*scores.get(seed, ()), value)
    runs = dict.fromkeys(run for *_, run in results)
    return Outcome(scores, lost, results[0][3], tuple(runs))


def shown(number: float) -> str:
    """Two decimals, as in the paper."""
    return f"{number:.2f}"


@dataclass(frozen=True)
class Rival:
    """A row beside the best of its column.

    Attributes:
        comparison: of the best, minus this one, over the seeds that both have.
        p: of the test that was chosen, by Holm's method corrected for all rivals of the column.
        test: that was chosen.
        tests: rivals of the column that were tested.
        tied: whether it is not significantly worse, by a test that could have found it worse.
    """

    comparison: Comparison
    p: float
    test: Test
    tests: int
    tied: bool

    @property
    def worse(self) -> bool:
        """Whether it is significantly worse, on the seeds that both have."""
        return self.p <= ALPHA and self.comparison.difference > 0

    @property
    def seeds_needed(self) -> int | None:
        """How many would tell it from the best, if difference and noise are as seen.

        That is at the first and hardest step of Holm's correction, by the power of a t test, and
        no fewer than the chosen test can reject with.
        """
        needed = self.comparison.seeds_needed(max(self.tests, 1))
        least = next(n for n in count(2) if lowest_p(n, self.test) * self.tests <= ALPHA)
        return None if needed is None else max(needed, least)


@dataclass(frozen=True)
class Ranking:
    """One column: its best rows, of which several may show the same number, and their rivals."""

    best: tuple[str, ...]
    rivals: Mapping[str, Rival]

    def numbers(self, label: str) -> dict[str, bool | float | int | None]:
        """What a CSV has of a row's place in the column; ``p`` is corrected for all of its rows."""
        rival = self.rivals.get(label)
        return {
            "best": label in self.best,
            "tied": rival is not None and rival.tied,
            "p": math.nan if rival is None else rival.p,
            "effect": math.nan if rival is None else rival.comparison.effect,
            "seeds_needed": None if rival is None else rival.seeds_needed,
        }


def rank(column: Mapping[str, Outcome], test: Test = "t") -> Ranking:
    """Find the best mean of a column, and who is not significantly worse.

    Args:
        column: the competing rows. Those without a score take no part, and those with one seed none
            where another has more: a lone seed may be the best by luck.
        test: paired over shared seeds, two-sided.
    """
    enough = 2 if any(outcome.n > 1 for outcome in column.values()) else 1
    scored = {label: outcome for label, outcome in column.items() if outcome.n >= enough}
    if not scored:
        return Ranking((), {})
    top = max(scored, key=lambda label: scored[label].mean)
    best = tuple(k for k, one in scored.items() if shown(one.mean) == shown(scored[top].mean))
    compared = {
        label: compare(scored[top].by_seed, one.by_seed)
        for label, one in scored.items()
        if label not in best
    }
    adjusted = holm([comparison.p(test) for comparison in compared.values()])
    tests = sum(not math.isnan(p) for p in adjusted)
    rivals = {}
    for (label, comparison), p in zip(compared.items(), adjusted, strict=True):
        # Whether the test could have found a difference in this family, however large.
        can_reject = not math.isnan(p) and lowest_p(comparison.n, test) * tests <= ALPHA
        rival = Rival(comparison, p, test, tests, tied=False)
        rivals[label] = replace(rival, tied=can_reject and not rival.worse)
    return Ranking(best, rivals)
