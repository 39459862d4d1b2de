"""One page per run: how it stands, where it was made, what it scored, how its log ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from benchmark.files import read_json
from benchmark.runs import Run
from benchmark.state import RunState, read_state
from reports.page.page_masks import CONFIGURATIONS, read_snapshot
from reports.page.report import RunPage
from reports.tables.score_tables import WHY

_TAIL = 4096  # bytes of a log
_LINES = 25
_BROKEN = "not readable"


def run_pages(frame: pd.DataFrame, runs: Sequence[Run]) -> list[RunPage]:
    """The pages of the runs in a frame, in its order.

    Args:
        frame: as `reports.results.collect.collect` makes it.
        runs: that it was made of.
    """
    folders = {str(run.folder): run for run in runs}
    labels = dict(zip(frame["run"], frame["label"], strict=True))
    scores: dict[str, list[str]] = {folder: [] for folder in labels}
    columns = ["run", "task", "eval_data", "eval_seed", "metric", "value", "status"]
    main = frame[frame["main"]]
    for folder, task, data, seed, metric, value, status in main[columns].itertuples(index=False):
        words = f"{metric} {value:.2f}" if status == "ok" else WHY[status]
        scores[folder].append(f"{task} on {data}, evaluation seed {seed}: {words}")
    return [_page(folders[folder], labels[folder], scores[folder]) for folder in labels]


def without_broken(pages: Sequence[RunPage]) -> tuple[list[RunPage], list[str]]:
    """Drop snapshots of masks that cannot be read, of those that the page shows.

    Returns:
        The pages, and a sentence for each file that is dropped, or whose text cannot be read.
    """
    kept, problems, seen = [], [], set[str]()
    for page in pages:
        problems += [str(page.provenance[_BROKEN])] if _BROKEN in page.provenance else []
        snapshots = []
        if page.snapshots and page.hash8 not in seen and len(seen) < CONFIGURATIONS:
            seen.add(page.hash8)
            for file in page.snapshots:
                try:
                    read_snapshot(file)
                except (ValueError, OSError) as error:
                    problems.append(str(error))
                else:
                    snapshots.append(file)
            page = replace(page, snapshots=snapshots)
        kept.append(page)
    return kept, problems


def _page(run: Run, label: str, scores: Sequence[str]) -> RunPage:
    state = read_state(run.folder, None) if (run.folder / "plan.json").exists() else None
    return RunPage(
        folder=str(run.folder),
        label=label,
        seed=run.seed,
        state="not known"
        if state is None
        else ": ".join(filter(None, (state.state, state.message))),
        hash8=run.hash8,
        provenance=_provenance(run.folder),
        scores=scores,
        log=_log(run, state),
        snapshots=sorted((run.folder / "masks" / "steps").glob("step*.npz")),
    )


def _provenance(folder: Path) -> Mapping[str, Any]:
    file = folder / "provenance.json"
    if not file.exists():
        return {}
    try:
        return read_json(file)
    except (ValueError, OSError) as error:
        return {_BROKEN: str(error)}


def _log(run: Run, state: RunState | None) -> str:
    """The end of what went wrong, else of the job's output, else of the training log."""
    files = [*run.error_files[:1]]
    if state is not None and state.log is not None:
        files.append(Path(state.log))
    files.append(run.folder / "metrics.jsonl")
    # A jobs.json may name any file of the disk; only those of the runs' own folder are shown.
    home = run.folder.resolve().parents[2]
    for file in files:
        if file.is_file() and file.resolve().is_relative_to(home):
            return _tail(file)
    return ""


def _tail(file: Path) -> str:
    with file.open("rb") as stream:
        stream.seek(max(0, file.stat().st_size - _TAIL))
        text = stream.read().decode("utf-8", "replace")
    return "\n".join(text.splitlines()[-_LINES:])
