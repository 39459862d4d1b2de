"""What claims are judged by, and what comes of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from reports.results.entrants import Entrant, same_setting
from reports.results.evaluations import Evaluation
from reports.results.outcomes import Outcome, Where
from reports.tables.mask_evidence import SlotEvidence
from reports.tables.published import read_paper, unlike_paper, unlike_task

Verdict = Literal["supported", "refuted", "undecided", "not run"]


@dataclass(frozen=True)
class Finding:
    """What some runs say of a claim.

    Attributes:
        claim: its name.
        where: data and settings of the runs.
        verdict: at a level of 0.05.
        effect: with its interval, in words.
        test: with its p, in words.
        n: seeds.
        needed: seeds that would decide, if effect and noise are as seen; None if not known.
        runs: folders.
        elsewhere: whether data or settings are not the paper's, so that the verdict is about these
            and not about the paper.
    """

    claim: str
    where: str
    verdict: Verdict
    effect: str = ""
    test: str = ""
    n: int = 0
    needed: int | None = None
    runs: tuple[str, ...] = ()
    elsewhere: bool = False

    @property
    def told(self) -> str:
        """The verdict as a reader is told it."""
        decided = self.verdict in ("supported", "refuted")
        return f"{self.verdict} elsewhere" if decided and self.elsewhere else self.verdict


@dataclass(frozen=True)
class Evidence:
    """All that claims are judged by."""

    entrants: Mapping[str, Entrant]
    cells: Mapping[Where, Outcome]
    headings: Mapping[Evaluation, str]
    settings: Mapping[Evaluation, Mapping[str, Any]]  # of evaluations
    slots: SlotEvidence

    def pairs(self, a: str, b: str) -> Iterator[tuple[Entrant, Entrant]]:
        """Entrants of two methods that share everything but the method."""
        own = [one for one in self.entrants.values() if one.control is None]
        for one in own:
            for other in own:
                if (one.method, other.method) == (a, b) and same_setting(one, other):
                    yield one, other

    def elsewhere(
        self, *of: Entrant, column: Evaluation | None = None, varied: Sequence[str] = ()
    ) -> bool:
        """Whether anything but what a claim varies is not as in the paper: data or settings.

        Args:
            of: entrants that the claim is judged by.
            column: by which they are scored; None if they are not.
            varied: keys of their settings that the claim is about.
        """
        paper = read_paper()
        places = paper.places(column.kind) if column else [(s.data, "") for s in paper.scores]
        there = all((one.data, column.data if column else "") in places for one in of)
        return not there or self.other_settings(*of, column=column, varied=varied)

    def other_settings(
        self, *of: Entrant, column: Evaluation | None = None, varied: Sequence[str] = ()
    ) -> bool:
        """The same of settings alone."""
        if any(set(unlike_paper(one)) - set(varied) for one in of):
            return True
        return column is not None and bool(unlike_task(column, self.settings.get(column)))

    def columns(self, kind: str, data: str | None = None) -> list[Evaluation]:
        """Evaluations of a kind, on one data set."""
        return [c for c in self.headings if c.kind == kind and data in (None, c.data)]
