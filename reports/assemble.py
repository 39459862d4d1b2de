"""A frame of results to a report: which tables there are, and in which order they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from benchmark.runs import Run
from reports.page.report import Picture, Report, Section
from reports.page.run_pages import run_pages, without_broken_snapshots
from reports.page.summary import summary
from reports.results.entrants import entrants
from reports.results.labels import Config
from reports.results.mask_runs import Configuration, of_runs
from reports.results.training_log import read_series
from reports.stats import Test
from reports.tables.ablations import ablation_tables
from reports.tables.claims import claims_table
from reports.tables.comparisons import comparison_table
from reports.tables.compute_table import compute_table
from reports.tables.cost_table import cost_table
from reports.tables.markup import Table
from reports.tables.mask_evidence import SlotEvidence
from reports.tables.mask_quality import measure, quality_tables, summarise
from reports.tables.metric_tables import metric_tables
from reports.tables.noise_table import noise_table
from reports.tables.overall import overall_table
from reports.tables.published import published_table
from reports.tables.score_tables import score_tables
from reports.tables.settings_tables import settings_tables

# Presets that are ablations of one choice: their results are in no table of the paper.
NOT_TABULATED = ("paper_literal",)


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

    Raises:
        ValueError: naming a file that is broken and belongs to what is in the tables.
    """
    frame = frame[~frame["preset"].isin(NOT_TABULATED)]
    own = entrants(frame, configs)
    masks = of_runs(runs, {one.hash8: one.label for one in own.values()})
    slots = SlotEvidence(
        {c.first.run.hash8: {m.run.seed: m for m in c.runs} for c in masks.configurations}
    )
    claims = claims_table(frame, own, slots)
    noise, unread = noise_table(frame)
    logs, illegible = read_series(frame["run"].unique())
    pictures: Mapping[str, Sequence[Picture]] = {}
    if figures is not None:
        from reports.figures.pictures import draw  # here, as matplotlib takes a second to import

        pictures = draw(frame, own, logs, masks.configurations, figures)
    notes = [f"Command: `{' '.join(command.split())}`"] if command else []
    if commit is not None:
        notes.append(f"The table was written at commit {commit[:10]}.")
    chapters: dict[str, list[Table | None]] = {
        "Scores": [*score_tables(frame, test=test, notes=notes)],
        "Beside the paper": [published_table(frame, configs), claims],
        "Comparisons": [overall_table(frame, own), comparison_table(frame, own), noise],
        "Cost": [cost_table(own), compute_table(own, logs)],
        "Training": [],
        "Masks": [*_mask_tables(frame, masks.configurations)],
        "Ablations": [*ablation_tables(frame, own, test)],
        "Other metrics": [*metric_tables(frame, test)],
        "Settings": [*settings_tables(own)],
    }
    sections = [
        Section(
            title, tables=[t for t in tables if t is not None], pictures=pictures.get(title, [])
        )
        for title, tables in chapters.items()
    ]
    pages, torn = without_broken_snapshots(run_pages(frame, runs))
    problems = [*frame["problem"].dropna().unique(), *masks.problems, *unread, *illegible, *torn]
    return Report(
        title="maskbench report",
        summary=[*summary(frame, own, claims, test=test)],
        sections=[section for section in sections if section.tables or section.pictures],
        runs=pages,
        configs={h: config for h, config in configs.items() if h in own},
        left_out=list(dict.fromkeys([*left_out, *problems])),
        command=command,
        commit=commit,
    )


def _mask_tables(frame: pd.DataFrame, configurations: Sequence[Configuration]) -> list[Table]:
    if not configurations:
        return []
    scored = frame[(frame["status"] == "ok") & (frame["task"] == "mask_quality")]
    known: dict[Path, dict[str, float]] = {}
    for run, metric, value in scored[["run", "metric", "value"]].itertuples(index=False):
        known.setdefault(Path(run), {})[metric] = value / 100
    return quality_tables(summarise(measure(configurations, known)), configurations)
