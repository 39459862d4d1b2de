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
        unlike: data and settings that are not the paper's, so that the verdict is about these and
            not about the paper.
    """

    claim: str
    where: str
    verdict: Verdict
    effect: str = ""
    test: str = ""
    n: int = 0
    needed: int | None = None
    runs: tuple[str, ...] = ()
    unlike: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """The verdict as a reader is told it."""
        decided = self.verdict in ("supported", "refuted")
        return f"{self.verdict} elsewhere" if decided and self.unlike else self.verdict


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

    def unlike(
        self,
        *of: Entrant,
        column: Evaluation | None = None,
        varied: Sequence[str] = (),
        any_data: bool = False,
    ) -> tuple[str, ...]:
        """What is not as in the paper, but for what a claim varies: data, and keys of settings.

        Args:
            of: entrants that the claim is judged by.
            column: by which they are scored; None if they are not.
            varied: keys of their settings that the claim is about.
            any_data: whether the claim is about data that the paper lacks.
        """
        paper = read_paper()
        found: list[str] = []
        for one in of:
            scored = f"{column.kind} on {column.data} after " if column else ""
            places = paper.places(column.kind) if column else [(s.data, "") for s in paper.scores]
            if not any_data and (one.data, column.data if column else "") not in places:
                found.append(f"{scored}{one.data}")
            found += [key for key in unlike_paper(one) if key not in varied]
        if column is not None:
            found += unlike_task(column, self.settings.get(column))
        return tuple(dict.fromkeys(found))

    def columns(self, kind: str, data: str | None = None) -> list[Evaluation]:
        """Evaluations of a kind, on one data set."""
        return [c for c in self.headings if c.kind == kind and data in (None, c.data)]
