"""The paper's Tables 3 and 4: hyperparameters, read off the configurations that ran."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from reports.results.entrants import Entrant
from reports.results.labels import spelled
from reports.tables.markup import Cell, Column, Row, Table

# The paper's names, then what it does not tell, by the keys of config.yaml.
_SHARED = {
    "encoder_optimiser.name": "Optimizer",
    "encoder_optimiser.momentum": "Momentum",
    "schedule.per": "Cosine schedule, rate changes per",
    "schedule.warmup_epochs": "Warm-up epochs",
    "epochs": "Epochs",
    "batch_size": "Batch size",
    "encoder_optimiser.lr": "Encoder learning rate",
    "encoder_optimiser.weight_decay": "Weight decay",
    "objective.temperature": "Temperature",
    "encoder.depth": "Encoder depth",
    "encoder.width": "Encoder width",
    "encoder.stem": "Encoder stem",
    "objective.projector_layers": "Projector layers",
    "objective.hidden_dim": "Projector hidden size",
    "objective.output_dim": "Projector output size",
    "data.image_size": "Image size",
    "augment.min_scale": "Smallest crop",
    "mask_optimiser.name": "Mask net optimizer",
    "mask_optimiser.lr": "Mask net learning rate",
    "fill": "Fill of hidden pixels",
    "precision": "Precision",
}
_HIDDEN = ("method._target_", "method.image_size")


def settings_tables(entrants: Mapping[str, Entrant]) -> list[Table]:
    """Both tables; without configurations none.

    Args:
        entrants: by hash8; controls take no part.
    """
    known = [one for one in entrants.values() if one.settings and one.control is None]
    if not known:
        return []
    return [_shared(known), *_of_methods(known)]


def _shared(known: Sequence[Entrant]) -> Table:
    groups: dict[tuple[str, ...], list[Entrant]] = {}
    for one in known:
        groups.setdefault((one.data, one.preset, one.objective), []).append(one)
    columns = [Column(", ".join(words for words in group if words is not None)) for group in groups]
    rows = []
    for key, name in _SHARED.items():
        cells = [_values(one.settings.get(key) for one in group) for group in groups.values()]
        if any(cell.text for cell in cells):
            rows.append(Row(name, cells))
    return Table(
        name="table3",
        title="Table 3",
        caption="Hyperparameters of pretraining that methods share, from the resolved "
        "configurations of the runs; several values where runs differ.",
        columns=columns,
        rows=rows,
        head="Name",
    )


def _of_methods(known: Sequence[Entrant]) -> list[Table]:
    methods: dict[str, list[Entrant]] = {}
    for one in known:
        methods.setdefault(one.method, []).append(one)
    keys = dict.fromkeys(
        key
        for one in known
        for key in one.settings
        if key.startswith("method.") and key not in _HIDDEN
    )
    if not keys:
        return []
    rows = [
        Row(
            key.removeprefix("method."),
            [_values(one.settings.get(key) for one in own) for own in methods.values()],
        )
        for key in keys
    ]
    return [
        Table(
            name="table4",
            title="Table 4",
            caption="Hyperparameters of the masking methods, from the resolved configurations of "
            "the runs; several values where runs differ.",
            columns=[Column(spelled(method)) for method in methods],
            rows=rows,
            head="Name",
        )
    ]


def _values(values: Iterable[Any]) -> Cell:
    distinct = list(dict.fromkeys(str(value) for value in values if value is not None))
    return Cell(", ".join(distinct) if len(distinct) <= 8 else f"{len(distinct)} values")
