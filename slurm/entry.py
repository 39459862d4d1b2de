"""What a job calls: a function that makes way when SLURM tells it to, and is called again.

submitit listens to signals once it has loaded a job's call. So the call is light: the function is a
name, and its arguments are bytes, until it is called.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission


class Entry:
    """A call of a function by its name, that submitit can pickle, make and make again.

    Told to make way, the function raises `benchmark.interruption.Interrupted` once it has saved its
    state. Then the first process of the job has it requeued, and the others leave. Where SLURM
    kills a job it sends SIGTERM before, often with seconds to go, and so does whoever cancels it:
    the function is asked to save its state, and goes on.

    Args:
        function: as ``module:name``. It returns False if it failed, without an exception: then the
            job ends with exit status 1, by which SLURM counts it as failed.
        arguments: of the function, which can be pickled.
        failed: a function as ``module:name`` that is called with a text and the arguments if the
            job had to make way and is not requeued.
    """

    def __init__(self, function: str, *arguments: Any, failed: str | None = None) -> None:
        self.function = function
        self.failed = failed
        self.arguments = pickle.dumps(arguments)
        self.folder = str(Path.cwd())
        self.path = [str(Path(entry).absolute()) for entry in sys.path]

    def __call__(self) -> None:
        """Make the call.

        Raises:
            SystemExit: if the function failed or made way.
        """
        os.chdir(self.folder)  # paths of the configuration are relative to it
        # Where plug-ins are that the submitting process could import.
        sys.path.extend(entry for entry in self.path if entry not in sys.path)
        from benchmark import interruption

        function = resolve_name(self.function)
        arguments = pickle.loads(self.arguments)
        number = _make_way()
        requeue = signal.getsignal(number)
        assert callable(requeue), "submitit has set a handler"
        try:
            with interruption.listen([number], going_on=[signal.SIGTERM]):
                succeeded = function(*arguments)
        except interruption.Interrupted:
            self._leave(requeue, arguments)
        if succeeded is False:
            sys.exit(1)

    def checkpoint(self) -> DelayedSubmission:
        """The same call, for submitit to make it when the job runs again."""
        from submitit.core.utils import DelayedSubmission

        return DelayedSubmission(self)

    def _leave(self, requeue: Callable[..., object], arguments: tuple[Any, ...]) -> NoReturn:
        from submitit import JobEnvironment

        number = _make_way()
        signal.signal(number, signal.SIG_IGN)  # once told is enough
        if JobEnvironment().global_rank == 0:
            try:
                requeue(number, None)  # exits, unless the job is not requeued
            except Exception as error:
                if self.failed is not None:
                    resolve_name(self.failed)(str(error), *arguments)
                raise
        sys.exit(0)


def _make_way() -> signal.Signals:
    """The signal that tells a job of its end: USR2, unless submitit's environment says another."""
    from submitit import JobEnvironment

    return signal.Signals[f"SIG{JobEnvironment.USR_SIG}"]
