"""When a training saves its state: after so many seconds, and before it stops."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmark import interruption, processes
from benchmark.interruption import Interrupted

_NOTHING, _SAVE = 0, 1  # any larger number is that of a signal


class Saving:
    """Asked after each step, in all processes of a run, which save or stop at the same one.

    Args:
        save: writes the state, given the number of steps done.
        every_seconds: between two savings.
        saved: steps that were done when the state was last saved.
    """

    def __init__(self, save: Callable[[int], object], every_seconds: float, saved: int = 0) -> None:
        self._save = save
        self._saved = saved
        self._every_seconds = every_seconds
        self._saved_at = time.monotonic()

    def after_step(self, done: int) -> None:
        """Save if it is time to.

        Args:
            done: steps.

        Raises:
            Interrupted: after saving, if one of the processes was asked to stop.
        """
        wish = processes.largest(interruption.asked() or self._due())
        if wish == _NOTHING:
            return
        self._save_at(done)
        if wish != _SAVE:
            raise Interrupted(wish)

    def at_end(self, done: int) -> None:
        """Save the last state, unless it is saved."""
        if self._saved < done:
            self._save_at(done)

    def _save_at(self, done: int) -> None:
        self._save(done)
        self._saved, self._saved_at = done, time.monotonic()

    def _due(self) -> int:
        """The first process' clock decides; a request to save counts in any."""
        waited = time.monotonic() - self._saved_at
        due = processes.rank() == 0 and waited >= self._every_seconds
        return _SAVE if interruption.asked_to_save() or due else _NOTHING
