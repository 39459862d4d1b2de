"""What every source checks: which files are there, their checksums, and how many images."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from benchmark.errors import UserError
from benchmark.sources.source import Examples

_TRUST = "set trust=true if you know where it comes from"


def wrong_layout(folder: Path, expects: str) -> UserError:
    """The error for a folder that holds something else, with what it does hold."""
    if not folder.is_dir():
        return UserError(f"source={folder} is not a folder; give one that holds {expects}.")
    names = sorted(f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir())
    return UserError(
        f"source={folder} holds {listed(names)} where {expects} is expected; "
        "give the folder that holds the files as the site distributes them."
    )


def listed(words: Iterable[str]) -> str:
    """The first five words and how many more there are."""
    words = [*words]
    rest = f" and {len(words) - 5:,} more" if len(words) > 5 else ""
    return (", ".join(words[:5]) or "nothing") + rest


def check_present(folder: Path, files: Iterable[str]) -> None:
    """Refuse a folder without one of these files, naming them.

    Raises:
        UserError: if a file is missing.
    """
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} lacks {listed(missing)}; "
            "unpack the archive again, or download it again if it is incomplete."
        )


def read_text(path: Path) -> str:
    """The UTF-8 text of a distributed file.

    Raises:
        UserError: if it is anything else.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not text in UTF-8 ({error.reason} at byte {error.start}); unpack the "
            "archive again, or save it as UTF-8."
        ) from error


def check_md5s(folder: Path, published: Mapping[str, str], *, trust: bool) -> dict[str, str]:
    """Refuse files that are missing or other than the published ones.

    Args:
        folder: where they are.
        published: MD5 of each file by its path in the folder.
        trust: go on where an MD5 differs.

    Returns:
        "md5:..." as found, by the same paths.

    Raises:
        UserError: naming the file.
    """
    check_present(folder, published)
    found = {name: _md5_of(folder / name) for name in published}
    for name, expected in published.items():
        if found[name] != expected and not trust:
            raise UserError(
                f"{folder / name} has the MD5 {found[name]} where {expected} is published; "
                f"download it again, or {_TRUST}."
            )
    return {name: f"md5:{value}" for name, value in found.items()}


def _md5_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def check_counts(
    folder: Path, splits: Mapping[str, Examples], published: Mapping[str, int], *, trust: bool
) -> None:
    """Refuse a split that is empty or has another number of images than the published one.

    Raises:
        UserError: naming the split.
    """
    for name, split in splits.items():
        if len(split) == 0:
            raise UserError(f"{folder} has no images in split {name}; complete it.")
        expected = published.get(name, len(split))
        if len(split) != expected and not trust:
            raise UserError(
                f"{folder} has {len(split):,} images in split {name} where {expected:,} are "
                f"published; complete it, or {_TRUST}."
            )
