"""Which states of the code results come from."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd


def commits(frame: pd.DataFrame, *, dirty: str = "-dirty", length: int | None = None) -> list[str]:
    """States of the code behind finished results, first used first.

    Args:
        frame: of results.
        dirty: what follows a commit with uncommitted changes.
        length: of a commit's name in letters, None for all of them.
    """
    done = frame[frame["status"] == "ok"]
    states = [
        state
        for kind in ("encoder_", "")
        for state in done[[f"{kind}commit", f"{kind}dirty"]]
        .drop_duplicates()
        .itertuples(index=False, name=None)
    ]
    names = (
        ("unknown" if pd.isna(commit) else commit[:length]) + (dirty if changed else "")
        for commit, changed in states
    )
    return list(dict.fromkeys(names))


def origin_notes(frame: pd.DataFrame) -> Iterator[str]:
    """At which commits the results were made, in a sentence."""
    states = commits(frame, dirty=" (uncommitted changes)", length=10)
    if len(states) > 1:
        yield f"Results were made at different commits: {', '.join(states)}."
    elif states:
        yield f"Results were made at commit {states[0]}."
