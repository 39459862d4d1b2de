"""Each of the paper's claims as a test of whatever was run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from scipy import stats

from reports.results.entrants import Entrant
from reports.results.evaluations import Evaluation
from reports.results.labels import SAME
from reports.stats import ALPHA, Comparison, compare
from reports.tables.claim_evidence import Evidence, Finding, Verdict
from reports.tables.compute_table import comparable, equally_dear
from reports.tables.published import read_paper

_SEVERAL_OBJECTS = ("scenes", "clevr", "voc2012")
_ONE_OBJECT = ("imagenet100s", "imagenet100", "stl10", "cifar10", "cifar100", "digits")


def findings(evidence: Evidence) -> list[Finding]:
    """All of them, in the order of the claims; a claim without runs has one that says so."""
    judges: Mapping[str, Callable[[Evidence], Iterator[Finding]]] = {
        "C1": lambda e: _beats(e, "C1", "linear"),
        "C2": lambda e: _beats(e, "C2", "finetune"),
        "C3": lambda e: _beats(e, "C3", "segmentation"),
        "C4": _five_masks,
        "C5": _empty_slots,
        "C6": _consistency,
        "C7": _stable_slots,
        "C8": _equal_means,
        "C9": _several_objects,
    }
    needs = {
        "C1": "sequential and adios of one setting, task linear",
        "C2": "sequential and adios of one setting, task finetune",
        "C3": "sequential and adios of one setting, task segmentation",
        "C4": "sequential with mask_net.num_masks=4,5",
        "C5": "sequential with log_limits=true",
        "C6": "sequential with method.consistency_weight=0,1e-4",
        "C7": "sequential and adios of one setting, two seeds for each pair that counts",
        "C8": "experiment=equal_compute, or sequential and adios with one method.reduction",
        "C9": "superpixel_budget and sequential, on data of several objects and of one",
    }
    found = []
    for claim, judge in judges.items():
        found += [*judge(evidence)] or [Finding(claim, f"needs {needs[claim]}", "not run")]
    return found


def _beats(evidence: Evidence, claim: str, kind: str) -> Iterator[Finding]:
    """Is sequential above ADIOS?"""
    for ours, theirs in evidence.pairs("sequential", "adios"):
        for column in evidence.columns(kind, None if kind == "segmentation" else ours.data):
            yield from _scores(claim, _named(column), ours, theirs, column, evidence)


def _named(column: Evaluation) -> str:
    return f"{column.task} on {column.data}"


def _difference(
    claim: str,
    where: str,
    a: Mapping[int, float],
    b: Mapping[int, float],
    of: Sequence[Entrant],
    *,
    unlike: tuple[str, ...],
    margin: float = 0.0,
    unit: str = "points",
) -> Finding:
    """Is a - b above -margin?

    Args:
        claim: that it is for.
        where: of what, in words.
        a: by seed.
        b: by seed.
        of: whose difference it is.
        unlike: see `reports.tables.claim_evidence.Finding`.
        margin: below zero that still counts as no worse.
        unit: of the difference.
    """
    found = compare(a, b)
    from_margin = compare({seed: score + margin for seed, score in a.items()}, b)
    verdict: Verdict = "undecided"
    if found.n > 1 and found.low > -margin:
        verdict = "supported"
    elif found.n > 1 and found.high < -margin:
        verdict = "refuted"
    test = f"paired t test: p {_p(found.p_t)}"
    if margin:
        test = f"95% interval against a margin of -{margin:g}"
    return Finding(
        claim,
        where,
        verdict,
        _interval(found, unit),
        test if found.n > 1 else "too few shared seeds",
        found.n,
        from_margin.seeds_needed() if verdict == "undecided" else None,
        tuple(run for one in of for run in one.runs.values()),
        unlike,
    )


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def _interval(found: Comparison, unit: str) -> str:
    if not found.n:
        return ""
    effect = "" if math.isnan(found.effect) else f", d = {found.effect:.2f}"
    span = f" [{found.low:+.2f}, {found.high:+.2f}]" if found.n > 1 else ""
    return f"{found.difference:+.2f} {unit}{span}{effect}"


def _differing_in(evidence: Evidence, key: str) -> Iterator[tuple[Entrant, Entrant]]:
    """Sequential entrants that differ in one key of the method and what follows from it."""
    own = [o for o in evidence.entrants.values() if o.method == "sequential" and o.settings]
    rest = {
        one.hash8: {
            k: str(v) for k, v in one.settings.items() if k.split(".")[0] not in SAME and k != key
        }
        for one in own
    }
    for a in own:
        for b in own:
            if a.settings.get(key) != b.settings.get(key) and rest[a.hash8] == rest[b.hash8]:
                yield a, b


def _five_masks(evidence: Evidence) -> Iterator[Finding]:
    margin = read_paper().tolerance
    for a, b in _differing_in(evidence, "method.num_masks"):
        if (a.settings["method.num_masks"], b.settings["method.num_masks"]) == (5, 4):
            for column in evidence.columns("linear", a.data):
                unlike = evidence.unlike(a, b, column=column, varied=["method.num_masks"])
                yield from _scores("C4", _named(column), a, b, column, evidence, margin, unlike)


def _scores(
    claim: str,
    what: str,
    a: Entrant,
    b: Entrant,
    column: Evaluation,
    evidence: Evidence,
    margin: float = 0.0,
    unlike: tuple[str, ...] | None = None,
) -> Iterator[Finding]:
    """Does one entrant score higher than another, or no lower than by a margin?

    ``unlike`` is all that is not as in the paper, unless it is given.
    """
    ours, theirs = (evidence.cells.get((one.hash8, column)) for one in (a, b))
    if ours is not None and theirs is not None:
        where = f"{what}, {a.label} and {b.label}"
        unlike = evidence.unlike(a, b, column=column) if unlike is None else unlike
        scores = (ours.by_seed, theirs.by_seed)
        yield _difference(claim, where, *scores, (a, b), unlike=unlike, margin=margin)


def _empty_slots(evidence: Evidence) -> Iterator[Finding]:
    """In how many seeds does the last slot hide nothing, while the first one does?"""
    for one in evidence.entrants.values():
        empty = evidence.slots.empty(one) if one.method == "sequential" else []
        if empty:
            k, n = sum(slots[-1] and not slots[0] for slots in empty), len(empty)
            yield Finding(
                "C5",
                f"{one.data}, {one.label}",
                _by_count(k, n),
                f"last empty, first not, in {k} of {n} seeds",
                f"binomial test against one half: p {_p(stats.binomtest(k, n).pvalue)}",
                n,
                None if _by_count(k, n) != "undecided" or k not in (0, n) else 6,
                tuple(one.runs.values()),
                evidence.unlike(one),
            )


def _by_count(k: int, n: int) -> Verdict:
    if stats.binomtest(k, n).pvalue > ALPHA:
        return "undecided"
    return "supported" if k > n / 2 else "refuted"


def _consistency(evidence: Evidence) -> Iterator[Finding]:
    """Smoother with the penalty, and as accurate?"""
    margin = read_paper().tolerance
    for a, b in _differing_in(evidence, "method.consistency_weight"):
        weights = [one.settings["method.consistency_weight"] for one in (a, b)]
        if not weights[0] or weights[1]:
            continue
        without, with_it = (evidence.slots.roughness(one) for one in (b, a))
        if without and with_it:
            where = f"smoothness, {a.data}, {a.label} and {b.label}"
            unit = "% of a mask value less rough"
            unlike = evidence.unlike(a, b)
            yield _difference("C6", where, without, with_it, (a, b), unlike=unlike, unit=unit)
        for column in evidence.columns("linear", a.data):
            yield from _scores("C6", _named(column), a, b, column, evidence, margin)


def _stable_slots(evidence: Evidence) -> Iterator[Finding]:
    """Do slots of the same number hide the same in other seeds?"""
    for ours, theirs in evidence.pairs("sequential", "adios"):
        seeds = sorted(ours.runs.keys() & theirs.runs.keys())
        kept, kept_by_adios = (evidence.slots.order_kept(one, seeds) for one in (ours, theirs))
        if kept and kept_by_adios:
            where = (
                f"overlap of like-numbered slots in disjoint pairs of seeds, of which n counts: "
                f"{ours.data}, {ours.label} and {theirs.label}"
            )
            of = (ours, theirs)
            unlike, unit = evidence.unlike(*of), "% of overlap"
            line = _difference("C7", where, kept, kept_by_adios, of, unlike=unlike, unit=unit)
            needed = None if line.needed is None else 2 * line.needed  # a pair has two seeds
            yield replace(line, needed=needed)


def _equal_means(evidence: Evidence) -> Iterator[Finding]:
    """Against no masks at equal compute, and against ADIOS at equal reduction."""
    for group in comparable(evidence.entrants):
        for one in group:
            for other in equally_dear(one, group):
                if (one.method, other.method) == ("sequential", "none"):
                    for column in evidence.columns("linear", one.data):
                        what = f"equal compute: {_named(column)}"
                        unlike = evidence.unlike(one, column=column)
                        unlike += evidence.unlike(other, column=column, varied=["epochs"])
                        unlike = tuple(dict.fromkeys(unlike))
                        yield from _scores("C8", what, one, other, column, evidence, unlike=unlike)
    for one, other in evidence.pairs("sequential", "adios"):
        reductions = {o.settings.get("method.reduction") for o in (one, other)}
        if len(reductions) == 1 and None not in reductions:
            for column in evidence.columns("linear", one.data):
                what = f"equal reduction: {_named(column)}"
                yield from _scores("C8", what, one, other, column, evidence)


def _several_objects(evidence: Evidence) -> Iterator[Finding]:
    """Is the gain of a budget from superpixels larger where images have several objects?"""
    gains = list(_gains(evidence))
    for more in (gain for gain in gains if gain.data in _SEVERAL_OBJECTS):
        for less in (gain for gain in gains if gain.data in _ONE_OBJECT):
            if more.setting != less.setting or min(len(more.by_seed), len(less.by_seed)) < 2:
                continue
            a, b = list(more.by_seed.values()), list(less.by_seed.values())
            test = stats.ttest_ind(a, b, equal_var=False)
            low, high = test.confidence_interval(1 - ALPHA)
            difference = sum(a) / len(a) - sum(b) / len(b)
            verdict: Verdict = "undecided"
            if test.pvalue <= ALPHA:
                verdict = "supported" if difference > 0 else "refuted"
            yield Finding(
                "C9",
                f"gain on {more.data} less gain on {less.data}, {', '.join(more.setting)}",
                verdict,
                f"{difference:+.2f} points [{low:+.2f}, {high:+.2f}]",
                f"Welch's t test: p {_p(test.pvalue)}",
                min(len(a), len(b)),
                None,
                (*more.runs, *less.runs),
                tuple(dict.fromkeys(more.unlike + less.unlike)),
            )


@dataclass(frozen=True)
class _Gain:
    """Of superpixel_budget over sequential, by seed, on one data set."""

    data: str
    setting: tuple[str, ...]  # what must be alike on another data set
    by_seed: Mapping[int, float]
    runs: tuple[str, ...]
    unlike: tuple[str, ...]


def _gains(evidence: Evidence) -> Iterator[_Gain]:
    for a, b in evidence.pairs("superpixel_budget", "sequential"):
        for column in evidence.columns("linear", a.data):
            ours, theirs = (evidence.cells.get((one.hash8, column)) for one in (a, b))
            if ours is not None and theirs is not None:
                shared = ours.by_seed.keys() & theirs.by_seed.keys()
                yield _Gain(
                    a.data,
                    (a.objective, a.encoder, a.preset, column.protocol_id),
                    {seed: ours.by_seed[seed] - theirs.by_seed[seed] for seed in shared},
                    (*a.runs.values(), *b.runs.values()),
                    evidence.unlike(a, b, column=column, any_data=True),
                )
