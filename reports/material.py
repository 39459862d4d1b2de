"""What tables and figures are made of, read once; and the tables, by chapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmark.runs import Run
from reports.results.entrants import Entrant, entrants
from reports.results.images import images_checked
from reports.results.labels import Config
from reports.results.mask_runs import Configuration, of_runs
from reports.results.training_log import Series, read_series
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

# Presets that are ablations of one choice: their scores compete with those of no other preset.
NOT_TABULATED = ("paper_literal",)


@dataclass(frozen=True)
class Material:
    """Results and what lies beside them.

    Attributes:
        frame: of results, with a row for a run without tasks too.
        entrants: by hash8.
        masks: configurations that left masks.
        logs: of training, by run folder.
        problems: a sentence for each file that is left out.
    """

    frame: pd.DataFrame
    entrants: Mapping[str, Entrant]
    masks: Sequence[Configuration]
    logs: Mapping[str, Series]
    problems: Sequence[str]

    @property
    def scored(self) -> pd.DataFrame:
        """The planned results."""
        return self.frame[self.frame["task"].notna()]

    @property
    def tabulated(self) -> pd.DataFrame:
        """Those that may stand beside one another."""
        return self.scored[~self.scored["preset"].isin(NOT_TABULATED)]


def gather(
    frame: pd.DataFrame, configs: Mapping[str, Config], runs: Sequence[Run] = ()
) -> Material:
    """Read what else the runs of a frame left.

    Args:
        frame: as `reports.results.collect.collect` makes it.
        configs: resolved configurations by hash8.
        runs: of the frame, as far as known; the others' are read again.
    """
    checked = images_checked(frame)
    own = entrants(checked, configs)
    folders = {Path(run): one.hash8 for one in own.values() for run in one.runs.values()}
    known = {run.folder: (run, configs[run.hash8]) for run in runs if run.hash8 in configs}
    masks = of_runs(folders, {one.hash8: one.label for one in own.values()}, known)
    logs, illegible = read_series(str(folder) for folder in folders)
    problems = [*checked["problem"].dropna().unique(), *masks.problems, *illegible]
    return Material(checked, own, masks.configurations, logs, problems)


def chapters(
    material: Material, *, test: Test = "t", notes: Sequence[str] = ()
) -> dict[str, list[Table]]:
    """Every table that there is something for, in the order of reading.

    Args:
        material: that they are made of.
        test: see `reports.tables.score_tables.score_tables`.
        notes: below the tables of scores.
    """
    scored, tabulated, own = material.scored, material.tabulated, material.entrants
    compared = {str(h): own[str(h)] for h in tabulated["hash8"].unique()}
    slots = {c.first.run.hash8: {m.run.seed: m for m in c.runs} for c in material.masks}
    made: dict[str, list[Table | None]] = {
        "Scores": [*score_tables(tabulated, test=test, notes=notes)],
        "Beside the paper": [
            published_table(tabulated, compared),
            claims_table(tabulated, compared, SlotEvidence(slots)),
        ],
        "Comparisons": [
            overall_table(tabulated, compared),
            comparison_table(tabulated, compared),
            noise_table(tabulated),
        ],
        "Cost": [cost_table(own), compute_table(own, material.logs)],
        "Training": [],
        "Masks": [*_mask_tables(scored, material.masks)],
        "Ablations": [*ablation_tables(scored, own, test)],
        "Other metrics": [*metric_tables(tabulated, test)],
        "Settings": [*settings_tables(own)],
    }
    return {title: [t for t in tables if t is not None] for title, tables in made.items()}


def _mask_tables(frame: pd.DataFrame, configurations: Sequence[Configuration]) -> list[Table]:
    if not configurations:
        return []
    scored = frame[(frame["status"] == "ok") & (frame["task"] == "mask_quality")]
    known: dict[Path, dict[str, float]] = {}
    for run, metric, value in scored[["run", "metric", "value"]].itertuples(index=False):
        known.setdefault(Path(run), {})[metric] = value / 100
    return quality_tables(summarise(measure(configurations, known)), configurations)
