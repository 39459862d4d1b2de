"""What is asked of a pack, and what it says of itself in its ``manifest.json``."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.files import parsed_json, write_json
from benchmark.packs.fitting import Fit
from benchmark.sources.source import Source
from benchmark.type_check import misfit

MANIFEST = "manifest.json"
FORMAT = 1  # raised whenever this version cannot read what another one has written


@dataclass(frozen=True)
class Recipe:
    """What decides the bytes of a pack, and where it lies.

    Attributes:
        name: of the pack's folder.
        data_dir: folder of all packs.
        source: reads the distributed files.
        stored_size: side of the images in pixels.
        fit: how images become squares; see `benchmark.packs.fitting.square`.

    Raises:
        UserError: for a name that cannot be a folder's, or a size that is none.
    """

    name: str
    data_dir: str | Path
    source: Source
    stored_size: int
    fit: Fit = "crop"

    def __post_init__(self) -> None:
        if not isinstance(self.source, Source):
            raise UserError(f"data.source={self.source!r} builds no Source; see benchmark.sources.")
        if not self.name or self.name.startswith(".") or Path(self.name).name != self.name:
            raise UserError(f"data.name={self.name!r} cannot be a folder's name; choose another.")
        if self.stored_size < 1:
            raise UserError(
                f"data.stored_size={self.stored_size} is not a size; "
                "give a number of pixels above 0."
            )

    @property
    def folder(self) -> Path:
        """Where the pack lies."""
        return Path(self.data_dir).expanduser() / self.name

    @property
    def work(self) -> Path:
        """Where it is made before it takes its place."""
        return self.folder.with_name(f".{self.name}.partial")

    @property
    def settings(self) -> dict[str, Any]:
        """What packs of the same bytes share, as JSON has it."""
        identity = self.source.identity()
        settings = {"source": identity, "stored_size": self.stored_size, "fit": self.fit}
        plain: dict[str, Any] = json.loads(json.dumps(settings))
        return plain

    def command(self, option: str | None) -> str:
        """The line that makes the pack.

        Args:
            option: what ``data=`` chooses for sets of the user's own; None if the name does.
        """
        arguments = self.source.identity()["arguments"]
        defaults = inspect.signature(type(self.source)).parameters
        given = {
            f"source.{key}": value
            for key, value in arguments.items()
            if value != defaults[key].default
        }
        if option is not None:
            given = {"name": self.name, "stored_size": self.stored_size, "fit": self.fit} | given
        words = [f"data.{key}={as_typed(value)}" for key, value in given.items()]
        words = [f"data={option or self.name}", "source=DIR", *words, f"data_dir={self.data_dir}"]
        return " ".join(["python benchmark/prepare.py", *words])

    def mismatch(self, manifest: Manifest) -> str | None:
        """How the pack of a manifest was made otherwise, in words that follow "was"; or None."""
        theirs = {key: getattr(manifest, key) for key in self.settings}
        for key, value, ours in _differences("data", theirs, self.settings):
            return f"made with {key}={as_typed(value)} where {as_typed(ours)} is asked for"
        return None


def _differences(key: str, theirs: Any, ours: Any) -> Iterator[tuple[str, Any, Any]]:
    """Keys of different values, and both values."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        for name in dict.fromkeys([*theirs, *ours]):
            inner = key if name == "arguments" else f"{key}.{name}"
            yield from _differences(inner, theirs.get(name), ours.get(name))
    elif theirs != ours:
        yield key, theirs, ours


def as_typed(value: Any) -> str:
    """A setting as users type it."""
    if isinstance(value, list):
        return f"[{','.join(map(as_typed, value))}]"
    return value if isinstance(value, str) else json.dumps(value)


class MissingPackError(UserError):
    """A pack that has not been made yet."""


class DamagedPackError(Exception):
    """A pack that cannot be used.

    Attributes:
        file: which of its files is wrong.
        problem: how, in words that follow "because".
    """

    def __init__(self, file: Path, problem: str) -> None:
        super().__init__(f"{file}: {problem}")
        self.file = file
        self.problem = problem


@dataclass(frozen=True)
class Stored:
    """A split in a pack: the rows from ``start`` to before ``stop`` of every array.

    Attributes:
        start: its first row.
        stop: the row after its last.
        digests: `benchmark.data.digest` of its rows of each array, without those that it lacks.
        unlabelled: number of its images without a class, by array of labels.
        counts: how often each of the 256 values occurs in each channel; padding does not count.
        skipped: images that were left out because they cannot be read.
    """

    start: int
    stop: int
    digests: dict[str, str]
    unlabelled: dict[str, int]
    counts: list[list[int]]
    skipped: list[str]


@dataclass(frozen=True)
class Manifest:
    """All that is known of a pack.

    Attributes:
        name: as it was when the pack was made.
        source: `benchmark.sources.source.Source.identity`.
        stored_size: side of the images in pixels.
        fit: how images became squares; see `benchmark.packs.fitting`.
        pillow: version of Pillow, which decoded the images.
        arrays: type and shape of each array, which is in the file of its name with ".npy".
        splits: in stored order, each beginning where the one before ends.
        class_names: of each label set.
        pixel_class_names: of pixel labels.
        checksums: of source files, as the source gives them.
    """

    name: str
    source: dict[str, Any]
    stored_size: int
    fit: str
    pillow: str
    arrays: dict[str, tuple[str, tuple[int, ...]]]
    splits: dict[str, Stored]
    class_names: dict[str, tuple[str, ...]]
    pixel_class_names: tuple[str, ...]
    checksums: dict[str, str]

    def write(self, folder: Path) -> None:
        """Write it as JSON, with the format's version and a checksum of the rest."""
        content = {"format": FORMAT, **asdict(self)}
        write_json(folder / MANIFEST, {**content, "sha256": _checksum(content)})

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read it again.

        Raises:
            DamagedPackError: if it is missing, of another format, or not as it was written.
        """
        file = folder / MANIFEST
        try:
            content = parsed_json(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise DamagedPackError(file, f"it cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise DamagedPackError(file, f"it is no JSON: {error}") from error
        found = content.get("format") if isinstance(content, dict) else None
        if found != FORMAT:
            raise DamagedPackError(
                file, f"it is of format {found!r:.20} where {FORMAT} is expected"
            )
        try:
            unchanged = content.pop("sha256", None) == _checksum(content)
        except RecursionError:  # nested as deeply as can just be read
            unchanged = False
        if not unchanged:
            raise DamagedPackError(file, "it has been changed since it was written")
        del content["format"]
        if fault := misfit(content, cls, "it") or _out_of_range(content):
            raise DamagedPackError(file, fault)
        arrays = {name: (dtype, tuple(shape)) for name, (dtype, shape) in content["arrays"].items()}
        splits = {name: Stored(**split) for name, split in content["splits"].items()}
        names = {name: tuple(classes) for name, classes in content["class_names"].items()}
        pixels = tuple(content["pixel_class_names"])
        made_of = {"arrays": arrays, "splits": splits, "class_names": names}
        return cls(**{**content, **made_of, "pixel_class_names": pixels})


def _out_of_range(content: dict[str, Any]) -> str | None:
    """What is of the right types and still describes no pack."""
    for name, (_, shape) in content["arrays"].items():
        if not shape or min(shape) < 0:
            return f"array {name!r} has the shape {shape}"
    last = min((shape[0] for _, shape in content["arrays"].values()), default=0)
    for name, split in content["splits"].items():
        if not 0 <= split["start"] <= split["stop"] <= last:
            return f"split {name} has the rows {split['start']} to {split['stop']} of {last}"
        if unknown := split["digests"].keys() - content["arrays"].keys():
            return f"split {name} has an array {min(unknown)!r}, which is not there"
        if [len(channel) for channel in split["counts"]] != [256] * 3:
            return f"split {name} does not count 256 values of three channels"
    return None


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
