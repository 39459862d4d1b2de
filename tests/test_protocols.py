"""docs/protocols.md says what the protocols do, word for word as results and tables say it.

    MASKBENCH_WRITE_GOLDEN=1 python -m pytest -n 0 tests/test_protocols.py

writes the part of the page that follows from the configuration.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmark.build import build_task
from benchmark.config import compose
from benchmark.hashing import protocol_id
from benchmark.resolve import typed

PAGE = Path(__file__).parents[1] / "docs/protocols.md"
BEGIN, END = "<!-- protocols -->\n", "<!-- end -->\n"
EVALUATIONS = ("demo", "modern", "paper", "adios")
TASKS = (
    "linear",
    "finetune",
    "knn",
    "clustering",
    "low_shot",
    "robustness",
    "segmentation",
    "mask_quality",
)


def page() -> str:
    """Every protocol of every set of numbers; those that two sets share stand once."""
    lines = []
    for task in TASKS:
        found: dict[str, tuple[str, list[str]]] = {}
        for evaluation in EVALUATIONS:
            node = typed(compose(["preset=base", f"evaluation={evaluation}"])).tasks[task]
            found.setdefault(protocol_id(node), (build_task(node).protocol, []))[1].append(
                evaluation
            )
        lines += [f"### {task}", ""]
        for name, (protocol, evaluations) in found.items():
            lines += [f"- **{', '.join(evaluations)}** `{name}`: {protocol}"]
        lines += [""]
    return "\n".join(lines)


def test_page__has_every_protocol() -> None:
    head, rest = PAGE.read_text().split(BEGIN)
    written, tail = rest.split(END)
    expected = page()
    if os.environ.get("MASKBENCH_WRITE_GOLDEN"):
        PAGE.write_text(f"{head}{BEGIN}{expected}{END}{tail}")
    else:
        assert written == expected


# Appendix E of arXiv 2212.08277; of the ADIOS code, linear.sh, finetune.sh and knn.sh in
# bash_files/evaluation, and main_clustering.py.
PUBLISHED = {
    ("paper", "linear"): {"lr": 0.1, "batch_size": 256, "weight_decay": 0.0},
    ("paper", "finetune"): {"lr": 0.5, "batch_size": 256, "weight_decay": 0.0, "epochs": 200},
    ("adios", "linear"): {
        "lr": 0.1,
        "batch_size": 128,
        "weight_decay": 0.0,
        "epochs": 100,
        "optimiser": "lars",
        "schedule": "step",
        "momentum": 0.9,
        "min_scale": 0.08,
    },
    ("adios", "finetune"): {
        "lr": 0.5,
        "batch_size": 128,
        "weight_decay": 5e-4,
        "epochs": 200,
        "optimiser": "lars",
        "schedule": "warmup_cosine",
        "warmup_epochs": 10,
        "freeze_batchnorm": True,
    },
    ("adios", "knn"): {
        "k": [1, 2, 5, 10, 20, 50, 100, 200],
        "temperature": [0.01, 0.02, 0.05, 0.07, 0.1, 0.2, 0.5, 1.0],
    },
    ("adios", "clustering"): {"fit_on": "test", "extra_clusters": -1},
}


@pytest.mark.parametrize(("evaluation", "task"), PUBLISHED)
def test_evaluation__has_the_published_numbers(evaluation: str, task: str) -> None:
    node = typed(compose(["preset=base", f"evaluation={evaluation}"])).tasks[task]
    expected = PUBLISHED[evaluation, task]
    assert {key: node[key] for key in expected} == expected
