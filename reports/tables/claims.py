"""What the paper claims, and what the runs at hand say of each claim."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from reports.results.entrants import Entrant
from reports.results.evaluations import evaluations
from reports.results.outcomes import outcomes
from reports.stats import ALPHA
from reports.tables.claim_evidence import Evidence, Finding
from reports.tables.claim_tests import findings
from reports.tables.markup import Cell, Column, Row, Table
from reports.tables.mask_evidence import SlotEvidence
from reports.tables.published import first_of, read_paper, task_settings

CLAIMS = {
    "C1": "Sequential masks beat ADIOS in the linear probe on the pretraining data",
    "C2": "Sequential masks beat ADIOS in fine-tuning on the pretraining data",
    "C3": "Sequential masks beat ADIOS in segmentation",
    "C4": "Five masks are no worse than four",
    "C5": "The last mask goes empty, the first does not",
    "C6": "The consistency penalty smooths masks and does not hurt accuracy",
    "C7": "Sequential slots keep their place over seeds, more than those of ADIOS",
    "C8": "The gain survives equal compute, and equal reduction of the losses",
    "C9": "A budget from superpixels helps more on images of several objects than of one",
}


def claims_table(
    frame: pd.DataFrame, entrants: Mapping[str, Entrant], slots: SlotEvidence
) -> Table:
    """A line for every claim and every place where it can be judged.

    Args:
        frame: as `reports.results.collect.collect` makes it.
        entrants: by hash8.
        slots: of the masks.
    """
    methods = frame[frame["control"].isna()]
    evidence = Evidence(
        entrants,
        outcomes(methods, "hash8"),
        evaluations(methods),
        task_settings(methods),
        slots,
    )
    found = findings(evidence)
    rows = [
        Row(
            f"{one.claim} {CLAIMS[one.claim]}",
            [
                Cell(_where(one), runs=one.runs),
                Cell(one.told, mark="decided" if one.verdict in ("supported", "refuted") else ""),
                Cell(one.effect),
                Cell(one.test),
                Cell(str(one.n) if one.n else "", value=one.n),
                Cell("" if one.needed is None else str(one.needed), value=one.needed),
            ],
        )
        for one in found
    ]
    return Table(
        name="claims",
        title="Claims",
        caption=f"What {read_paper().source} claims, and what these runs say of it at a level of "
        f"{ALPHA}, each line by itself.",
        columns=[Column(n) for n in ("Where", "Verdict", "Effect", "Test", "n", "Seeds")],
        rows=rows,
        notes=[
            "Undecided: the test found nothing with n seeds; Seeds would decide at a power of 80%, "
            "if effect and noise are as seen. Elsewhere: data (of which C9 is about some that the "
            "paper lacks) or settings are not the paper's, so that the line tells whether the "
            "claim holds there, and nothing of the paper's runs."
        ],
        head="Claim",
        data=pd.DataFrame([vars(one) | {"unlike": "; ".join(one.unlike)} for one in found]).drop(
            columns="runs"
        ),
    )


def _where(one: Finding) -> str:
    return one.where + (f" (unlike the paper: {first_of(one.unlike)})" if one.unlike else "")
