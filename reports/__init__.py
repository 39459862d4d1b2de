"""Results as tables and figures, for a notebook.

import reports
frame = reports.load("runs")
reports.table(frame, "table1")
reports.plot_points(frame)
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__all__ = [
    "all_tables",
    "load",
    "plot_ablation",
    "plot_compute",
    "plot_curves",
    "plot_points",
    "table",
]


def __getattr__(name: str) -> Any:
    # When asked for: pandas and matplotlib take seconds, and a command may need neither.
    if name not in __all__:
        raise AttributeError(f"module 'reports' has no attribute {name!r}")
    module = "reports.results.load" if name == "load" else "reports.notebook"
    return getattr(import_module(module), name)
