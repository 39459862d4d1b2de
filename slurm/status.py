"""The command line: how the runs in a folder stand.

    python slurm/status.py runs [--watch | --json]

Reads the run folders, and SLURM's queue if it can be asked. The exit status is 0 if all runs are
done, 1 if one failed or was left unfinished, 3 if some are still queued or running, and 2 for a
mistake.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from benchmark.errors import UserError
from benchmark.state import RunState, State, find_runs, read_state, was_sent
from slurm.squeue import read_queue

_COLOURS: dict[State, str] = {
    "failed": "red",
    "stale": "magenta",
    "running": "cyan",
    "queued": "yellow",
    "done": "green",
}
_COLUMNS = ("run", "state", "steps", "tasks", "img/s", "left", "job", "log", "last error")


@dataclass(frozen=True)
class Look:
    """All runs at one moment.

    Attributes:
        runs: how each stands.
        silence: why SLURM cannot be asked, if that matters and is so.
    """

    runs: list[RunState]
    silence: str | None

    @property
    def counts(self) -> Counter[State]:
        """Runs by state."""
        return Counter(run.state for run in self.runs)

    @property
    def unfinished(self) -> int:
        """Runs with which it is to go on."""
        return self.counts["queued"] + self.counts["running"]

    @property
    def status(self) -> int:
        """Exit status for scripts."""
        if self.counts["failed"] + self.counts["stale"]:
            return 1
        return 3 if self.unfinished else 0

    def totals(self) -> str:
        """How many runs are in each state, and whether SLURM could be asked."""
        order: tuple[State, ...] = ("done", "running", "queued", "failed", "stale")
        parts = [f"{self.counts[state]} {state}" for state in order if self.counts[state]]
        runs = f"{len(self.runs)} run" + "s" * (len(self.runs) != 1)
        line = f"{runs}: {', '.join(parts)}"
        if self.silence:
            line += f"\nSLURM cannot be asked ({self.silence}); states are from the run folders"
        return line


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="slurm/status.py",
        description="How runs stand, also without SLURM.",
        epilog="Exit status: 0 all done; 1 a run failed or is stale; 3 others are unfinished; "
        "2 a mistake.",
    )
    parser.add_argument("runs", type=Path, metavar="RUNS", help="folder with runs")
    parser.add_argument("--interval", type=_seconds, default=5.0, help="of --watch, in seconds")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--watch", action="store_true", help="until nothing is queued or running")
    how.add_argument("--json", action="store_true", help="for programs")
    options = parser.parse_args(arguments)
    try:
        again = partial(look, options.runs)
        seen = watch(again, options.interval) if options.watch else again()
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    if options.json:
        print(as_json(seen))
    elif sys.stdout.isatty():
        console = Console(highlight=False)
        console.print(table(seen.runs, one_line=False))
        console.print(seen.totals(), markup=False)
    else:
        print(plain(seen))
    return seen.status


def look(folder: Path) -> Look:
    """Read every run below a folder.

    Raises:
        UserError: if there is none.
    """
    folders = find_runs(folder)
    reasons: list[str] = []
    queue = read_queue(reasons.append) if any(map(was_sent, folders)) else {}
    runs = [read_state(run, queue) for run in folders]
    matters = any(run.in_queue is None for run in runs)
    return Look(runs, reasons[0] if reasons and matters else None)


def watch(again: Callable[[], Look], interval: float) -> Look:
    """Show how it goes on until nothing is queued or running; returns the last look.

    Two looks must agree on the end, as between two tasks a run is in nobody's hands for a moment.

    Args:
        again: looks.
        interval: seconds between looks.
    """
    console = Console(highlight=False)
    told, ended = "", 0
    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            seen = again()
            if sys.stdout.isatty():
                live.update(_screen(seen, console.height), refresh=True)
            elif seen.totals() != told:
                told = seen.totals()
                print(f"{time.strftime('%H:%M:%S')} {told}", flush=True)
            ended = 0 if seen.unfinished else ended + 1
            if ended == 2 or seen.status == 0:
                return seen
            time.sleep(interval)


def _screen(seen: Look, height: int) -> RenderableType:
    """As many runs as fit, first those that need somebody or move, below a line about all."""
    order = list(_COLOURS)
    runs = sorted(seen.runs, key=lambda run: order.index(run.state))
    totals = Text(seen.totals(), style="bold", no_wrap=True, overflow="ellipsis")
    fit = max(height - 4 - totals.plain.count("\n"), 1)
    more = [Text(f"... and {len(runs) - fit} more")] if len(runs) > fit else []
    return Group(totals, table(runs[:fit], one_line=True), *more)


def table(runs: Sequence[RunState], *, one_line: bool) -> Table:
    """For a terminal.

    Args:
        runs: are its rows.
        one_line: cut what does not fit rather than to take several lines for a run.
    """
    drawn = Table(box=None, pad_edge=False)
    for column in _COLUMNS:
        figures = column in ("steps", "tasks", "img/s", "left")
        whole = figures or column in ("run", "state")
        drawn.add_column(column, justify="right" if figures else "left", no_wrap=whole)
    for run in runs:
        cells = [
            Text(cell, no_wrap=one_line or None, overflow="ellipsis" if one_line else "fold")
            for cell in _cells(run)
        ]
        cells[_COLUMNS.index("state")].stylize(_COLOURS[run.state])
        drawn.add_row(*cells)
    return drawn


def plain(seen: Look) -> str:
    """For files and pipes: one line a run, nothing cut, and a line about all."""
    lines = [_COLUMNS, *map(_cells, seen.runs)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([*padded, seen.totals()])


def as_json(seen: Look) -> str:
    """For programs: every attribute of every run."""
    runs = [{"run": r.name, **asdict(r), "folder": str(r.folder)} for r in seen.runs]
    content = {"runs": runs, "totals": seen.counts, "slurm_unknown": seen.silence}
    return json.dumps(content, indent=2, allow_nan=False)


def _cells(run: RunState) -> tuple[str, ...]:
    speed, left = run.images_per_second, run.seconds_left
    return (
        run.name,
        run.state,
        f"{int(100 * run.progress)}%",
        f"{run.tasks_done}/{run.tasks}",
        "-" if speed is None else f"{speed:.0f}",
        "-" if left is None else _duration(left),
        run.job or "-",
        _near(run.log) if run.log else "-",
        _printable(run.message or "-"),
    )


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _near(path: str) -> str:
    """A path as it is reached from the current folder, if it lies below it."""
    absolute, here = Path(path).absolute(), Path.cwd()
    return _printable(str(absolute.relative_to(here) if absolute.is_relative_to(here) else path))


def _printable(text: str) -> str:
    """Text from files may hold what a terminal obeys."""
    return "".join(c if c.isprintable() else " " for c in text)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text} must be above 0 and at most 86400 seconds")
    return seconds


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader like head may leave early
    sys.exit(main())
