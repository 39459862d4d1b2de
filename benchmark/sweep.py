"""Overrides of a command line: those of an experiment, of each run of a sweep, of the controls."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser

from benchmark.config import compose, one_sentence
from benchmark.errors import UserError
from benchmark.runs import NAMED


def expand(overrides: Sequence[str], *, multirun: bool) -> list[list[str]]:
    """Split a sweep's overrides into those of each run.

    Raises:
        UserError: for an override that cannot be parsed, or a sweep without ``-m``.
    """
    with one_sentence():
        parsed = OverridesParser.create().parse_overrides(list(overrides))
        swept = [o.input_line for o in parsed if o.is_sweep_override()]
        if swept and not multirun:
            raise UserError(f"{swept[0]!r} lists several values; add -m to run a sweep")
        if not multirun:
            return [list(overrides)]
        return [list(run) for batch in BasicSweeper.split_arguments(parsed, None) for run in batch]


def varied_keys(overrides: Sequence[str]) -> set[str]:
    """Keys with several values, apart from those that every run folder tells."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    return {o.get_key_element() for o in parsed if o.is_sweep_override()} - set(NAMED)


def with_experiment(overrides: Sequence[str]) -> list[str]:
    """The overrides with the sweep of a chosen experiment before them; the line's own keys win.

    Raises:
        UserError: for an unknown experiment.
    """
    keys = {o.split("=")[0].lstrip("+~") for o in overrides}
    named = [o for o in overrides if o.split("=")[0] in ("experiment", "hydra.searchpath")]
    sweep = compose(named).hydra.sweeper.params if "experiment" in keys else None
    return [f"{key}={value}" for key, value in (sweep or {}).items() if key not in keys] + [
        *overrides
    ]


def control_line(overrides: Sequence[str], controls: Sequence[str]) -> list[str]:
    """The same sweep over the controls, which know no options of the methods compared."""
    others = [o for o in overrides if not re.match(r"[+~]*(method[.=@]|(checkpoint|format)=)", o)]
    return [f"method={','.join(controls)}", *others]
