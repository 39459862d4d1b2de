"""A frame of results to a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pandas as pd

from benchmark.runs import Run
from reports.material import NOT_TABULATED, Material, chapters, gather
from reports.meanwhile import meanwhile
from reports.page.report import Pictures, Report, Section
from reports.page.run_pages import run_pages, without_broken
from reports.page.summary import summary
from reports.results.labels import Config
from reports.stats import Test


def assemble(
    frame: pd.DataFrame,
    runs: Sequence[Run],
    configs: Mapping[str, Config],
    *,
    figures: Path | None = None,
    left_out: Sequence[str] = (),
    command: str = "",
    commit: str | None = None,
    test: Test = "t",
    fork: bool = False,
) -> Report:
    """Make everything that the results have something for.

    Args:
        frame: as `reports.results.collect.collect` makes it.
        runs: that it was made of.
        configs: resolved configurations by hash8.
        figures: folder that figures are drawn into; None for none.
        left_out: what else lies in the folders, in sentences; broken files are added.
        command: that makes the report.
        commit: of the code that makes it.
        test: see `reports.tables.score_tables.score_tables`.
        fork: draw in processes of their own, see `reports.meanwhile.meanwhile`.
    """
    material = gather(frame, configs, runs)
    notes = [f"Command: `{' '.join(command.split())}`"] if command else []
    if commit is not None:
        notes.append(f"The table was written at commit {commit[:10]}.")
    works: list[Callable[[], Pictures]] = []
    if figures is not None:
        works = [partial(draw, material, figures) for draw in (_draw_scores, _draw_masks)]
    with ExitStack() as stack:
        drawn = [stack.enter_context(meanwhile(work)) if fork else work for work in works]
        tables = chapters(material, test=test, notes=notes)
        (claims,) = (table for table in tables["Beside the paper"] if table.name == "claims")
        sentences = [*summary(material.tabulated, material.entrants, claims, test=test)]
        pages, broken = without_broken(run_pages(material.frame, runs))
        pictures = {section: own for result in drawn for section, own in result().items()}
    sections = [Section(k, tables=own, pictures=pictures.get(k, [])) for k, own in tables.items()]
    presets = set(material.frame["preset"]) & set(NOT_TABULATED)
    sentences += [
        f"preset={p} is an ablation: its scores are in figures, and in tables of ablations alone."
        for p in presets
    ]
    return Report(
        title="maskbench report",
        summary=sentences,
        sections=[section for section in sections if section.tables or section.pictures],
        runs=pages,
        configs={h: config for h, config in configs.items() if h in material.entrants},
        left_out=list(dict.fromkeys([*left_out, *material.problems, *broken])),
        command=command,
        commit=commit,
    )


# The modules are imported when they are used, as matplotlib takes a second.
def _draw_scores(material: Material, folder: Path) -> Pictures:
    from reports.figures.pictures import draw_scores

    return draw_scores(material, folder)


def _draw_masks(material: Material, folder: Path) -> Pictures:
    from reports.figures.pictures import draw_masks

    return draw_masks(material, folder)
