"""Two result sets side by side: which cells belong together, and which can be told apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from scipy import stats

from reports.results.entrants import Entrant
from reports.results.evaluations import Evaluation
from reports.results.labels import differences
from reports.results.outcomes import Outcome
from reports.sets.result_sets import ResultSet
from reports.stats import ALPHA, LEVEL, compare, holm

Matching = Literal["setting", "label"]
Verdict = Literal["identical", "not told apart", "higher", "lower", "too few seeds"]
Kind = Literal["only in A", "only in B", "in neither", "not comparable", "with unshared seeds"]

MATCHINGS: tuple[Matching, ...] = ("setting", "label")
VERDICTS: tuple[Verdict, ...] = ("identical", "not told apart", "higher", "lower", "too few seeds")


@dataclass(frozen=True)
class Match:
    """A row of each set; the same configuration if their hash8 is."""

    a: Entrant
    b: Entrant


@dataclass(frozen=True)
class Tested:
    """The difference B - A of a cell, in points.

    Attributes:
        test: in words, with its number of seeds; empty without one, for which there are too few
            seeds, or no need as the scores are identical.
        low: of the 95% interval; NaN without a test.
        high: of the 95% interval; NaN without a test.
        p: two-sided; NaN without a test.
    """

    test: str
    difference: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Change:
    """One cell that both sets have a score in.

    Attributes:
        p: of the test, corrected by Holm's method for all cells that are tested.
    """

    match: Match
    column: Evaluation
    a: Outcome
    b: Outcome
    tested: Tested
    p: float
    verdict: Verdict


@dataclass(frozen=True)
class Gap:
    """What cannot be compared, and why; ``column`` is None where it is a whole row."""

    label: str
    column: Evaluation | None
    why: str
    kind: Kind


@dataclass(frozen=True)
class SetComparison:
    """All of it.

    Attributes:
        matches: rows that belong together.
        changes: their cells.
        gaps: what only one side has or, though planned, neither; and what both have by different
            protocols or on different data.
        settings: which settings of a matched row differ, in a sentence each.
    """

    a: ResultSet
    b: ResultSet
    matches: list[Match]
    changes: list[Change]
    gaps: list[Gap]
    settings: list[str]


def compare_sets(a: ResultSet, b: ResultSet, match: Matching = "label") -> SetComparison:
    """Compare every cell that two result sets share.

    Args:
        a: the reference.
        b: what is compared with it.
        match: "setting" pairs rows of one configuration; "label" then also those that have only
            their label and the data of pretraining in common.
    """
    matches = _matches(a, b, match)
    cells = [
        (pair, column, a.cells[pair.a.hash8][column], b.cells[pair.b.hash8][column])
        for pair in matches
        for column in a.cells[pair.a.hash8]
        if column in b.cells[pair.b.hash8]
    ]
    cells = [cell for cell in cells if cell[2].n and cell[3].n]
    tested = [compare_cell(ours, theirs) for _, _, ours, theirs in cells]
    adjusted = holm([one.p for one in tested])
    changes = [
        Change(*cell, one, p, _verdict(cell[2], cell[3], one, p))
        for cell, one, p in zip(cells, tested, adjusted, strict=True)
    ]
    gaps = [*_unmatched(a, b, matches), *(gap for pair in matches for gap in _gaps(a, b, pair))]
    unlike = [pair for pair in matches if pair.a.hash8 != pair.b.hash8]
    return SetComparison(a, b, matches, changes, gaps, [_settings(a, b, pair) for pair in unlike])


def _matches(a: ResultSet, b: ResultSet, match: Matching) -> list[Match]:
    pairs = {h: b.entrants[h] for h in a.entrants if h in b.entrants}
    if match == "label":
        left = {(one.data, one.label): one for h, one in b.entrants.items() if h not in pairs}
        for hash8, one in a.entrants.items():
            if hash8 not in pairs and (other := left.get((one.data, one.label))) is not None:
                pairs[hash8] = other
    return [Match(one, pairs[hash8]) for hash8, one in a.entrants.items() if hash8 in pairs]


def compare_cell(a: Outcome, b: Outcome) -> Tested:
    """The difference B - A: paired over two or more shared seeds, else over all seeds of each.

    Identical cells are not tested: with p = 1 they would make others' corrected p larger.
    """
    if a.scores == b.scores:
        return Tested("", 0.0, math.nan, math.nan, math.nan)
    shared = compare(b.by_seed, a.by_seed)
    if shared.n >= 2:
        words = f"paired t, {shared.n} seeds"
        return Tested(words, shared.difference, shared.low, shared.high, shared.p_t)
    difference = b.mean - a.mean
    if min(a.n, b.n) < 2:
        return Tested("", difference, math.nan, math.nan, math.nan)
    words = f"Welch, {a.n} and {b.n} seeds"
    if a.std == b.std == 0:  # where scipy divides by zero
        return Tested(words, difference, difference, difference, 1.0 if difference == 0 else 0.0)
    scores = list(b.by_seed.values()), list(a.by_seed.values())
    found = stats.ttest_ind(*scores, equal_var=False)
    low, high = found.confidence_interval(LEVEL)
    return Tested(words, difference, float(low), float(high), float(found.pvalue))


def _verdict(a: Outcome, b: Outcome, tested: Tested, p: float) -> Verdict:
    if a.scores == b.scores:
        return "identical"
    if math.isnan(p):
        return "too few seeds"
    if p > ALPHA:
        return "not told apart"
    return "higher" if tested.difference > 0 else "lower"


def _unmatched(a: ResultSet, b: ResultSet, matches: list[Match]) -> Iterator[Gap]:
    sides: tuple[tuple[Kind, ResultSet, set[str]], ...] = (
        ("only in A", a, {pair.a.hash8 for pair in matches}),
        ("only in B", b, {pair.b.hash8 for pair in matches}),
    )
    for kind, one, matched in sides:
        for hash8, entrant in one.entrants.items():
            if hash8 not in matched:
                yield Gap(entrant.label, None, f"{kind} ({hash8})", kind)


def _gaps(a: ResultSet, b: ResultSet, pair: Match) -> Iterator[Gap]:
    """Evaluations of a matched row that not both sides have all scores in."""
    label = pair.a.label
    ours, theirs = a.cells[pair.a.hash8], b.cells[pair.b.hash8]
    only = [_scored(ours) - _scored(theirs), _scored(theirs) - _scored(ours)]
    scored = _scored(ours) | _scored(theirs)
    for task, data in dict.fromkeys((one.task, one.data) for one in (*ours, *theirs)):
        in_a, in_b = (
            [one for one in cells if one in own and (one.task, one.data) == (task, data)]
            for cells, own in zip((ours, theirs), only, strict=True)
        )
        if in_a and in_b:
            yield Gap(label, in_a[0], _unlike(in_a, in_b), "not comparable")
            continue
        for k in in_a:
            yield Gap(label, k, f"missing in B{_lost(theirs.get(k))}", "only in A")
        for k in in_b:
            yield Gap(label, k, f"missing in A{_lost(ours.get(k))}", "only in B")
        if not in_a and not in_b:
            for k in dict.fromkeys((*ours, *theirs)):
                if (k.task, k.data) == (task, data) and k not in scored:
                    words = [f"{n}{_lost(c.get(k))}" for n, c in (("A", ours), ("B", theirs))]
                    yield Gap(label, k, f"missing in {' and '.join(words)}", "in neither")
    for column in ours:
        other = theirs.get(column)
        if other is not None and other.n and ours[column].n:
            why = _unshared(ours[column], other)
            yield from [Gap(label, column, why, "with unshared seeds")] if why else []


def _scored(cells: Mapping[Evaluation, Outcome]) -> set[Evaluation]:
    return {column for column, outcome in cells.items() if outcome.n}


def _unlike(in_a: Sequence[Evaluation], in_b: Sequence[Evaluation]) -> str:
    """Why evaluations of one task on data of one name cannot be compared."""

    def told(what: str, key: Callable[[Evaluation], str]) -> list[str]:
        ours, theirs = (" and ".join(dict.fromkeys(map(key, side))) for side in (in_a, in_b))
        return [f"{what} ({ours} in A, {theirs} in B)"] if ours != theirs else []

    protocols = told("another protocol", lambda one: one.protocol_id)
    data = told("other data", lambda one: one.fingerprint[:8])
    return f"not comparable: {', '.join([*protocols, *data])}"


def _unshared(a: Outcome, b: Outcome) -> str:
    """Seeds that not both sides have a score of, in words; empty if there is none."""
    in_a, in_b = set(a.scores), set(b.scores)
    lost = {*a.lost, *b.lost} - in_a - in_b
    parts = (("only in A", in_a - in_b), ("only in B", in_b - in_a), ("in neither", lost))
    return ", ".join(
        f"seed{'s' * (len(seeds) > 1)} {' '.join(map(str, sorted(seeds)))} {where}"
        for where, seeds in parts
        if seeds
    )


def _lost(outcome: Outcome | None) -> str:
    lost = {} if outcome is None else outcome.lost_by()
    return f" ({', '.join(f'{k} {why}' for why, k in lost.items())})" if lost else ""


def _settings(a: ResultSet, b: ResultSet, pair: Match) -> str:
    """In what the configurations of one label differ."""
    configs = a.configs.get(pair.a.hash8), b.configs.get(pair.b.hash8)
    what = (
        f"{pair.a.label}: {pair.a.hash8} in A and {pair.b.hash8} in B are compared by their label"
    )
    if configs[0] is None or configs[1] is None:
        return f"{what}; config.yaml of one is not there, so what differs is not known."
    ours, theirs = differences([configs[0], configs[1]])
    if not ours and not theirs:
        return f"{what}; no setting differs, so the code's versions or the data do."
    return f"{what}; A has {ours or 'none of these'}, B has {theirs or 'none of these'}."
