"""The archive in which result sets travel: its manifest, and its bytes out and in.

A gzipped tar: MANIFEST.json, then the files that it names, below maskbench-results/. An archive
comes from anywhere, so it is read block by block: `tarfile` holds whole extended headers in memory,
which can be as large as their author likes.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO

from benchmark.errors import UserError
from benchmark.files import write_atomically
from reports.sets.archive_manifest import LARGEST_TEXT, MANIFEST, Entry, Manifest, parsed

_BLOCK = tarfile.BLOCKSIZE
_CHUNK = 1 << 20
_KINDS = {
    tarfile.SYMTYPE: "a link",
    tarfile.LNKTYPE: "a link",
    tarfile.DIRTYPE: "a folder",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
}

Source = Path | bytes  # of a member: a file, or what stands for it


class UnsoundError(ValueError):
    """What is wrong with an archive, in words."""


def write_archive(
    path: Path, sources: Mapping[str, Source], *, commit: str | None, dirty: bool, anonymous: bool
) -> Manifest:
    """Write an archive; the same sources give the same bytes.

    Args:
        path: of it.
        sources: by names that pass `is_member`.
        commit: see `Manifest`.
        dirty: see `Manifest`.
        anonymous: see `Manifest`.

    Raises:
        UserError: if a file changes meanwhile or a name or file is too large for the format.
    """
    entries = {name: _entry(sources[name]) for name in sorted(sources)}
    manifest = Manifest(commit, dirty, anonymous, entries)
    text = manifest.text()
    try:
        parsed(text)  # what is written can be read
    except ValueError as error:
        raise UserError(f"{path} cannot hold that: {error}; export fewer runs") from error

    def write(part: Path) -> None:
        with (
            part.open("wb") as raw,
            gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w|", format=tarfile.USTAR_FORMAT) as tar,
        ):
            _add(tar, MANIFEST, text, _entry(text))
            for name, entry in entries.items():
                _add(tar, name, sources[name], entry)

    write_atomically(path, write)
    return manifest


def _entry(source: Source) -> Entry:
    with _opened(source) as file:
        hashed, size = _Hashed(file), 0
        while chunk := hashed.read(_CHUNK):
            size += len(chunk)  # and not what the file has then: logs grow
    return {"size": size, "sha256": hashed.digest.hexdigest()}


def _opened(source: Source) -> IO[bytes]:
    return source.open("rb") if isinstance(source, Path) else BytesIO(source)


class _Hashed:
    """A file whose content is hashed while it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int) -> bytes:
        chunk = self._file.read(size)
        self.digest.update(chunk)
        return chunk


def _add(tar: tarfile.TarFile, name: str, source: Source, entry: Entry) -> None:
    info = tarfile.TarInfo(name)  # owner, group and time of which are 0
    info.size = entry["size"]
    with _opened(source) as file:
        hashed = _Hashed(file)
        try:
            tar.addfile(info, hashed)  # type: ignore[arg-type]
        except ValueError as error:  # a name that is too long
            raise UserError(f"{name} cannot be exported ({error}); give other folders") from error
        except OSError as error:
            if error.errno is not None:  # else the file has become shorter
                raise
        if hashed.digest.hexdigest() != entry["sha256"]:
            raise UserError(
                f"{name} changed while it was exported; export again when no run is at work there"
            )


def read_manifest(path: Path) -> Manifest:
    """What an archive says of itself; nothing else of it is looked at.

    Raises:
        UserError: if it is none.
    """
    with _stream(path) as stream:
        return _manifest(stream)


def unpack(path: Path, folder: Path | None) -> Manifest:
    """Read a whole archive, check all of it, and write its files.

    Args:
        path: of the archive.
        folder: for the files, which are not there yet; None to check only. What was written stays
            when the archive is refused: the caller removes it.

    Raises:
        UserError: if the archive is not sound.
        OSError: if a file cannot be written.
    """
    with _stream(path) as stream:
        manifest = _manifest(stream)
        left = dict(manifest.members)
        for name, size in _headers(stream):
            entry = left.pop(name, None)
            if entry is None:
                twice = name in manifest.members
                raise UnsoundError(
                    f"{name!r} is {'there twice' if twice else 'not in its manifest'}"
                )
            if size != entry["size"]:
                raise UnsoundError(f"{name} has {size:,} bytes in place of {entry['size']:,}")
            digest = hashlib.sha256()
            with _sink(name, folder) as file:
                for chunk in _content(stream, size):
                    digest.update(chunk)
                    file.write(chunk)
            if digest.hexdigest() != entry["sha256"]:
                raise UnsoundError(f"{name} has another checksum than its manifest says")
        if left:
            raise UnsoundError(f"it lacks {min(left)}")
        _at_end(stream)
    return manifest


@contextmanager
def _stream(path: Path) -> Iterator[IO[bytes]]:
    """The unpacked bytes of an archive, whose faults become one sentence."""
    try:
        with gzip.open(path, "rb") as stream:
            yield stream  # type: ignore[misc]
    except (UnsoundError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        why = str(error) or type(error).__name__
        raise UserError(
            f"{path} is no sound archive of results ({why}); get it again from whoever exported it"
        ) from error
    except (FileNotFoundError, IsADirectoryError) as error:
        if error.filename != str(path):
            raise
        raise UserError(
            f"{path} is no file; give an archive that reports/archive.py exported"
        ) from error


def _exactly(stream: IO[bytes], size: int) -> bytes:
    found = stream.read(size)
    if len(found) < size:
        raise UnsoundError("it ends too early")
    return found


def _headers(stream: IO[bytes]) -> Iterator[tuple[str, int]]:
    """Name and size of each member, whose content has been read when the next one is asked for."""
    while any(block := _exactly(stream, _BLOCK)):
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise UnsoundError(f"a header is broken: {error}") from error
        if info.type != tarfile.REGTYPE:
            kind = _KINDS.get(info.type, "no regular file")
            raise UnsoundError(f"{info.name!r} is {kind}")
        yield info.name, info.size


def _content(stream: IO[bytes], size: int) -> Iterator[bytes]:
    """What follows a header."""
    for start in range(0, size, _CHUNK):
        yield _exactly(stream, min(_CHUNK, size - start))
    _exactly(stream, -size % _BLOCK)


def _at_end(stream: IO[bytes]) -> None:
    """Nothing follows but what fills the last record."""
    rest = stream.read(tarfile.RECORDSIZE + 1)
    if len(rest) > tarfile.RECORDSIZE or any(rest):
        raise UnsoundError("something follows its end")


@contextmanager
def _sink(name: str, folder: Path | None) -> Iterator[IO[bytes]]:
    if folder is None:
        with Path(os.devnull).open("wb") as nothing:
            yield nothing
        return
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        yield file


def _manifest(stream: IO[bytes]) -> Manifest:
    name, size = next(_headers(stream), ("", 0))
    if name != MANIFEST:
        raise UnsoundError(f"it begins with {name!r} in place of {MANIFEST}")
    if size > LARGEST_TEXT:
        raise UnsoundError(f"its manifest has {size:,} bytes, at most {LARGEST_TEXT:,} are read")
    text = b"".join(_content(stream, size))
    try:
        return parsed(text)
    except ValueError as error:
        raise UnsoundError(f"its manifest is none: {error}") from error
