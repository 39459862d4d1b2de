"""docs/protocols.md says what the protocols do, word for word as results and tables say it.

    MASKBENCH_WRITE_GOLDEN=1 python -m pytest -n 0 tests/test_protocols.py

writes the part of the page that follows from the configuration.
"""

from __future__ import annotations

import os
from pathlib import Path

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


def test_page__no_two_protocols_share_an_id() -> None:
    nodes = [
        node
        for evaluation in EVALUATIONS
        for node in typed(compose([f"evaluation={evaluation}"])).tasks.values()
    ]
    ids = {protocol_id(node): {k: v for k, v in node.items() if k != "data"} for node in nodes}
    for node in nodes:
        assert ids[protocol_id(node)] == {k: v for k, v in node.items() if k != "data"}
