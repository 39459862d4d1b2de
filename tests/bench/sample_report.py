"""A report small enough to read, for the tests of its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from reports.page.report import Picture, Report, RunPage, Section
from reports.tables.markup import Cell, Column, Row, Table

METHODS = ("SimCLR", "+ ADIOS", "+ Sequential")


def snapshots(
    folder: Path,
    *,
    steps: Sequence[int] = (0, 20, 40),
    slots: int = 2,
    size: int = 8,
    seed: int = 0,
) -> list[Path]:
    """Masks that are black before training and white after it; 10 steps are an epoch."""
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(seed).integers(0, 256, (5, 3, size, size)).astype(np.uint8)
    paths = []
    for step in steps:
        masks = np.full((5, slots, size, size), 255 * step // max(steps), np.uint8)
        path = folder / f"step{step:08}.npz"
        np.savez_compressed(path, images=images, masks=masks, step=step, epoch=step / 10)
        paths.append(path)
    return paths


def run_page(folder: Path, label: str, seed: int, hash8: str, **changes: object) -> RunPage:
    """A finished run."""
    parts = {
        "state": "finished",
        "provenance": {"attempts": [{"commit": "c0ffee", "command": ["run.py", "seed=0 1"]}]},
        "scores": ["linear on scenes: accuracy 12.50"],
        "log": "step 1 loss 4.2\nstep 2 loss 4.1\n",
    } | changes
    return RunPage(
        str(folder / "scenes" / hash8 / f"seed{seed}"), label, seed, hash8=hash8, **parts
    )  # type: ignore[arg-type]


def sample_report(folder: Path) -> Report:
    """Three methods of two seeds, a control of one, a table, a picture and masks."""
    runs = []
    for k, label in enumerate((*METHODS, "Untrained")):
        for seed in range(2 if k < 3 else 1):
            masks = snapshots(folder / f"{k}" / f"{seed}", slots=k) if k in (1, 2) else []
            runs.append(run_page(folder, label, seed, f"{k:08}", snapshots=masks))
    picture = folder / "bars.png"
    Image.new("RGB", (600, 300), "white").save(picture)
    return Report(
        title="Three ways to mask",
        summary=["+ ADIOS is best by `linear`.", "No run failed."],
        sections=[
            Section(
                "Scores",
                ["What the features are worth."],
                [_table(runs)],
                [Picture("Scores as bars", "Bars: SimCLR 9.50, + ADIOS 100.00.", picture)],
            )
        ],
        runs=runs,
        configs={f"{k:08}": {"epochs": 4, "lr": k / 10} for k in range(4)},
        left_out=["/runs/odd holds no run"],
        command="maskbench -m",
        commit="c0ffee",
    )


def _table(runs: Sequence[RunPage]) -> Table:
    folders = {
        label: tuple(r.folder for r in runs if r.label == label)
        for label in (*METHODS, "Untrained")
    }
    scores = {"SimCLR": 9.5, "+ ADIOS": 100.0, "+ Sequential": 20.25}
    marks = {"+ ADIOS": "best", "+ Sequential": "tied"}
    rows = [
        Row(
            label,
            [
                Cell(f"{score:.2f} ± 1.00", "(n=2)", marks.get(label, ""), score, folders[label]),  # type: ignore[arg-type]
                Cell() if label == "SimCLR" else Cell(f"{100 - score:.2f}", value=100 - score),
                Cell(label[::-1]),
            ],
        )
        for label, score in scores.items()
    ]
    control = Row("Untrained", [Cell("5.00", value=5.0, runs=folders["Untrained"]), Cell(), Cell()])
    return Table(
        name="table1",
        title="Table 1",
        caption="Scores of three methods, in percent.",
        columns=[Column("Linear", "scenes"), Column("kNN", "scenes"), Column("Words")],
        rows=[*rows, Row(control.label, control.cells, "controls")],
        notes=["Underlined: not significantly worse."],
        details=["Linear: a linear classifier."],
    )
