"""Which states of the code results come from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pandas as pd


def commits(frame: pd.DataFrame, *, dirty: str = "-dirty", length: int | None = None) -> list[str]:
    """States of the code behind finished results, first used first.

    Args:
        frame: of results.
        dirty: what follows a commit with uncommitted changes.
        length: of a commit's name in letters, None for all of them.
    """
    done = frame[frame["status"] == "ok"]
    columns = ("encoder_commit", "encoder_dirty", "commit", "dirty")
    return named(done[list(columns)].itertuples(index=False, name=None), dirty, length)


def named(
    states: Iterable[tuple[str | None, bool, str | None, bool]],
    dirty: str = "-dirty",
    length: int | None = None,
) -> list[str]:
    """The same of states as tuples: commit and changes of what pretrained, then of what scored."""
    distinct = dict.fromkeys(states)
    pairs = [state[:2] for state in distinct] + [state[2:] for state in distinct]
    names = (
        ("unknown" if commit is None or pd.isna(commit) else commit[:length])
        + dirty * bool(changed)
        for commit, changed in pairs
    )
    return list(dict.fromkeys(names))


def origin_notes(frame: pd.DataFrame) -> Iterator[str]:
    """At which commits the results were made, in a sentence."""
    states = commits(frame, dirty=" (uncommitted changes)", length=10)
    if len(states) > 1:
        yield f"Results were made at different commits: {', '.join(states)}."
    elif states:
        yield f"Results were made at commit {states[0]}."
