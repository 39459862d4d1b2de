"""What a report consists of, however it is shown: tables, pictures, runs, and what is left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reports.tables.markup import Table


@dataclass(frozen=True)
class Picture:
    """A figure, as files of one stem.

    Attributes:
        title: what it shows.
        text: the same for who cannot see it, with the numbers that matter.
        png: the file; the PDF lies beside it.
    """

    title: str
    text: str
    png: Path


Pictures = Mapping[str, Sequence[Picture]]  # by the section that they are in


@dataclass(frozen=True)
class Section:
    """A chapter: sentences, then tables, then pictures."""

    title: str
    sentences: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()


@dataclass(frozen=True)
class RunPage:
    """One run for whoever wants to know where a number comes from.

    Attributes:
        folder: as the cells of tables name it.
        label: of its row.
        seed: of its pretraining.
        state: in a word or a sentence.
        hash8: of its configuration, by which the report holds that.
        provenance: commit, versions, machine, command of each attempt.
        scores: a line for each result.
        log: the end of its log and of its error, if it failed.
        snapshots: files of masks over training, in the order of steps.
    """

    folder: str
    label: str
    seed: int
    state: str
    hash8: str
    provenance: Mapping[str, Any]
    scores: Sequence[str]
    log: str
    snapshots: Sequence[Path] = ()


@dataclass(frozen=True)
class Report:
    """All of it.

    Attributes:
        title: of the page.
        summary: plain sentences, most important first.
        configs: resolved configurations by hash8.
        left_out: what lies in the folders and is in no table, with the reason.
        command: command line that makes the report.
        commit: of the code that makes it, None if not known.
    """

    title: str
    summary: Sequence[str]
    sections: Sequence[Section]
    runs: Sequence[RunPage]
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left_out: Sequence[str] = ()
    command: str = ""
    commit: str | None = None

    @property
    def tables(self) -> list[Table]:
        """Of all sections."""
        return [table for section in self.sections for table in section.tables]
