"""What runs report while they work, and how it is shown: bars in a terminal, else plain lines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

Emit = Callable[["Event"], None]


@dataclass(frozen=True)
class Event:
    """One report of a run.

    Attributes:
        run: the run's name.
        text: a message, or the losses of a training step in words.
        step: steps done, of ``steps``; None for a message.
        steps: steps of the whole training.
        epoch_ended: an epoch is complete with this event.
        finished: the run is over.
    """

    run: str
    text: str
    step: int | None = None
    steps: int = 0
    epoch_ended: bool = False
    finished: bool = False


class Display:
    """Shows the events of one run or of several at a time, or nothing at all if ``quiet``."""

    def __init__(self, console: Console | None = None, *, quiet: bool = False) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True, quiet=quiet)
        self._bars: dict[str, TaskID] = {}
        self._progress = Progress(
            BarColumn(bar_width=5),
            TextColumn("{task.fields[text]}", table_column=Column(no_wrap=True)),
            # Last, so that a narrow terminal cuts the name and not the figures.
            TextColumn(
                "{task.fields[run]}", style="bold", table_column=Column(no_wrap=True, ratio=1)
            ),
            expand=True,
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def show(self, event: Event) -> None:
        """Draw an event; without a terminal, training appears once per epoch."""
        if event.step is not None:
            self._advance(event)
        if event.step is None or (event.epoch_ended and not self.console.is_terminal):
            self.console.print(f"[{event.run}] {event.text}", markup=False)
        if event.finished and event.run in self._bars:
            self._progress.remove_task(self._bars.pop(event.run))

    def _advance(self, event: Event) -> None:
        if event.run not in self._bars:
            self._bars[event.run] = self._progress.add_task(
                "", total=event.steps, run=event.run, text=""
            )
        self._progress.update(self._bars[event.run], completed=event.step, text=event.text)
