"""Columns of tables: which evaluations there are, in the paper's order and under its headings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from reports.results.labels import SPELLING, spelled

# The paper's headings, in its order; a task that is not listed comes after these.
HEADINGS = {
    "linear": "Linear",
    "transfer": "Linear",
    "finetune": "Fine Tune",
    "transfer_finetune": "Fine Tune",
    "knn": "kNN",
    "clustering": "Clustering",
    "low_shot": "Low-shot",
    "segmentation": "Segmentation",
    "robustness": "Robustness",
    "mask_quality": "Masks",
}

# Tasks of Table 2 whatever their data; others are there only when they left the pretraining data.
_AWAY = ("transfer", "transfer_finetune", "segmentation")


@dataclass(frozen=True)
class Evaluation:
    """What scores must share to be compared: the task, its data and every setting of it.

    Attributes:
        task: its name in the configuration.
        data: name of the data set that it scores on.
        protocol_id: see `benchmark.hashing.protocol_id`.
        fingerprint: of that data set.
    """

    task: str
    data: str
    protocol_id: str
    fingerprint: str

    @cached_property
    def kind(self) -> str:
        """What the task does, by the end of its name: `cifar10_linear` is `linear`."""
        names = [name for name in HEADINGS if self.task == name or self.task.endswith(f"_{name}")]
        return max(names, key=len, default=self.task)


KEY = ["task", "eval_data", "protocol_id", "fingerprint"]  # columns of the frame


def is_away(frame: pd.DataFrame) -> pd.Series:
    """Whether each row is transfer or segmentation, which the paper has in its Table 2."""
    kinds = {task: Evaluation(task, "", "", "").kind for task in frame["task"].unique()}
    return frame["task"].map(kinds).isin(_AWAY) | (frame["eval_data"] != frame["data"])


def evaluations(frame: pd.DataFrame) -> dict[Evaluation, str]:
    """The evaluations of a frame with their headings, in the paper's order, by data set.

    A heading tells the metric where it is not the accuracy, and where several evaluations of one
    data set would share one, the task, then the hash of its settings.
    """
    main = frame[frame["main"]]
    metrics: Mapping[Any, str] = (
        main.dropna(subset="metric").groupby(KEY, sort=False)["metric"].first().to_dict()
    )
    found = [Evaluation(*key) for key in main[KEY].drop_duplicates().itertuples(index=False)]
    order = list(HEADINGS)
    datasets = list(dict.fromkeys(main["eval_data"]))
    found.sort(
        key=lambda one: (
            datasets.index(one.data),
            order.index(one.kind) if one.kind in order else len(order),
        )
    )
    names = {}
    for one in found:
        names[one] = HEADINGS.get(one.kind, spelled(one.task))
        metric = metrics.get((one.task, one.data, one.protocol_id, one.fingerprint), "accuracy")
        if "accuracy" not in metric:
            names[one] += f" ({SPELLING.get(metric, metric)})"
    for more in (
        lambda one: one.task,
        lambda one: one.protocol_id.rpartition("-")[2],
        lambda one: f"data {one.fingerprint[:8]}",
    ):
        words: dict[tuple[str, str], set[str]] = {}
        for one, name in names.items():
            words.setdefault((one.data, name), set()).add(more(one))
        for one, name in names.items():
            differ = len(words[one.data, name]) > 1
            if differ and (word := more(one)) and word.lower() != name.lower():
                names[one] = f"{name}, {word}"
    return names
