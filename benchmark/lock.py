"""One process per folder, also where several machines share it and the kernel's locks do not work.

The lock is a file that only one process can make. Its owner touches it every few seconds, and
whoever waits takes it over once the owner is dead: known at once on the same machine, after a
minute without a heartbeat on another one.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmark.files import clear_leftovers, parsed_json
from benchmark.type_check import misfit

LOCK = ".lock"
HEARTBEAT = 5.0  # seconds
# Without a heartbeat an owner elsewhere is dead. Longer than file attributes are cached by NFS.
DEAD_AFTER = 90.0
_POLL = 0.2
_ATTEMPTS = 20


class LockLostError(RuntimeError):
    """The folder was removed, or another process holds it: nothing may be written any more."""

    @classmethod
    def removed(cls, folder: Path) -> LockLostError:
        """The folder is not there any more."""
        return cls(f"{folder} was removed while a process worked in it")


@dataclass(frozen=True)
class Owner:
    """The process that holds a folder.

    Attributes:
        token: of this very holding.
        host: name of its machine.
        pid: of the process.
        place: the machine's boot and the process namespace, in which ``pid`` means something.
        started: when the process started, which tells it from a later one with its number.
        job: SLURM's number of the job, None outside one.
        since: when it took the folder, in seconds since 1970.
    """

    token: str
    host: str
    pid: int
    place: str
    started: int
    job: str | None
    since: float

    def dead(self) -> bool | None:
        """Whether the process is gone; None if it is not one of this machine."""
        if self.place != _place() or not Path("/proc/self/stat").exists():
            return None
        try:
            return _start_of(self.pid) != self.started
        except PermissionError:  # somebody else's process, which is there
            return False

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host}{job} since {since}"


def read_owner(folder: Path) -> Owner | None:
    """Who holds a folder, None if nobody does or the lock's file is just being written."""
    try:
        found = parsed_json((folder / LOCK).read_text())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return None if misfit(found, Owner, "it") else Owner(**found)


def is_held(folder: Path) -> bool:
    """Whether a living process holds a folder that has a lock."""
    owner = read_owner(folder)
    dead = owner.dead() if owner is not None else None
    if dead is not None:
        return not dead
    try:
        beat = (folder / LOCK).stat().st_mtime
    except FileNotFoundError:
        return False
    # One look cannot tell a heartbeat in the future, by a clock that jumped, from a living one.
    return time.time() - beat < DEAD_AFTER


class Lock:
    """A folder that this process holds."""

    def __init__(self, folder: Path, owner: Owner) -> None:
        self._folder = folder
        self._owner = owner
        self._released = threading.Event()
        self._pulse = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._pulse.start()

    def check(self) -> None:
        """Make sure that the folder is still held, before something is written into it.

        Raises:
            LockLostError: if it is not: it was removed, or this process was stopped for so long
                that another one took it over.
        """
        owner = read_owner(self._folder)
        if owner == self._owner:
            return
        if not self._folder.exists():
            raise LockLostError.removed(self._folder)
        raise LockLostError(
            f"{self._folder} is no longer held by this process but by {owner or 'nobody'}"
        )

    def release(self) -> None:
        """Let the next one in."""
        self._released.set()
        self._pulse.join()
        if read_owner(self._folder) == self._owner:
            (self._folder / LOCK).unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT):
            # Without the file the lock is lost, which the next `check` says.
            with suppress(OSError):
                if read_owner(self._folder) == self._owner:
                    os.utime(self._folder / LOCK)


@contextmanager
def exclusive(folder: Path, waiting: Callable[[Owner | None], object]) -> Iterator[Lock]:
    """Hold a folder for this process; a second one waits and then finds the work done.

    A dead owner's lock is taken over. What a killed process left half-written is cleared away. The
    holder may `remove_held` the folder.

    Args:
        folder: that is made if need be.
        waiting: is told, once, whom this process waits for.
    """
    lock = _take(folder, waiting)
    try:
        clear_leftovers(folder)
        yield lock
    finally:
        lock.release()


def clear_dead(folder: Path) -> None:
    """Remove the lock of a process that was killed when its work in the folder was done.

    For a folder in which nothing is left to do, so that nobody takes the lock over.
    """
    with suppress(OSError):  # it is not there, or not ours to remove: then it does no harm
        text, _ = _read(folder / LOCK)
        if not is_held(folder):
            _break(folder, text)


def remove_held(folder: Path) -> None:
    """Remove a folder that this process holds by `exclusive`; one that waits makes it again."""
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK:
            entry.unlink(missing_ok=True)
    (folder / LOCK).unlink()  # last: until then nobody else is in the folder
    with suppress(OSError):  # not empty, as the next process has its lock there
        folder.rmdir()


def _take(folder: Path, waiting: Callable[[Owner | None], object]) -> Lock:
    me = Owner(
        token=uuid.uuid4().hex,
        host=socket.gethostname(),
        pid=os.getpid(),
        place=_place(),
        started=_start_of(os.getpid()) or 0,
        job=os.environ.get("SLURM_JOB_ID"),
        since=time.time(),
    )
    told = False
    # Heartbeats are compared with each other and timed by this process' own clock: clocks of
    # machines differ, and jump.
    seen: tuple[str, int] | None = None
    seen_at = time.monotonic()
    while not _made(folder, me):
        try:
            text, beat = _read(folder / LOCK)
        except FileNotFoundError:
            continue  # released meanwhile
        if (text, beat) != seen:
            seen, seen_at = (text, beat), time.monotonic()
        owner = read_owner(folder)
        dead = owner.dead() if owner is not None else None
        if dead is None:
            dead = time.monotonic() - seen_at > DEAD_AFTER
        if dead:
            _break(folder, text)
            continue
        if not told:
            waiting(owner)
            told = True
        time.sleep(_POLL)
    return Lock(folder, me)


def _made(folder: Path, owner: Owner) -> bool:
    """Make the lock's file; False if there is one."""
    file = folder / LOCK
    for attempt in itertools.count():
        try:
            with suppress(FileExistsError):
                folder.mkdir(parents=True)
            descriptor = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            break
        except FileExistsError:
            return False
        except FileNotFoundError:
            if attempt == _ATTEMPTS:  # a link to nowhere, or the working folder is gone
                raise
            continue  # the folder, or one above it, went between the calls
    try:
        with os.fdopen(descriptor, "w") as opened:
            json.dump(asdict(owner), opened)
    except OSError:  # a full disk, as a rule
        file.unlink(missing_ok=True)
        raise
    return True


def _read(file: Path) -> tuple[str, int]:
    with file.open() as opened:  # NFS asks the server anew when a file is opened
        return opened.read(), os.fstat(opened.fileno()).st_mtime_ns


def _break(folder: Path, text: str) -> None:
    """Remove a dead owner's lock, and not that of somebody who was quicker to do so."""
    aside = folder / f"{LOCK}-{uuid.uuid4().hex}"
    try:
        (folder / LOCK).rename(aside)
    except FileNotFoundError:
        return
    if aside.read_text() != text:  # a living one's, then: give it back
        with suppress(FileExistsError, FileNotFoundError):
            os.link(aside, folder / LOCK)
    aside.unlink(missing_ok=True)


def _place() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    try:
        return f"{boot.read_text().strip()} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # no Linux: the machine's name has to do
        return socket.gethostname()


def _start_of(pid: int) -> int | None:
    """When a process started, in clock ticks since the boot; None if there is no such process.

    Raises:
        PermissionError: if there is one, which this process may not look at.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        with suppress(ProcessLookupError):
            os.kill(pid, 0)  # to those who may not see it, it looks gone
        return None
    return None if fields[0] in "ZX" else int(fields[19])
