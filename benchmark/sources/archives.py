"""Distributed archives: found packed or unpacked, and unpacked outside the user's folder."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.errors import UserError
from benchmark.sources.checks import check_md5s, check_present


def find_members(
    official: Any, members: Mapping[str, str], folder: Path, scratch: Path, *, trust: bool
) -> tuple[Path, dict[str, str]] | None:
    """The checked files of a data set that torchvision reads too.

    Args:
        official: torchvision's class, with the names and the checksum of the archive.
        members: MD5 of each file in it, as published; the first tells their folder.
        folder: the user's: holds the archive, or what it unpacks to, or is that itself.
        scratch: where the archive is unpacked.
        trust: see `check_md5s`.

    Returns:
        Their folder, and the checksums of what was checked by path in ``folder``; None if neither
        they nor the archive are there.

    Raises:
        UserError: if one is missing or has another checksum.
    """
    first = next(iter(members))
    if (folder / official.base_folder).is_dir():
        root = folder / official.base_folder
    elif (folder / first).is_file():
        root = folder
    elif (folder / official.filename).is_file():
        checksums = check_md5s(folder, {official.filename: official.tgz_md5}, trust=trust)
        root = unpack(folder / official.filename, scratch) / official.base_folder
        check_present(root, members)
        return root, checksums
    else:
        return None
    inside = root.relative_to(folder)
    published = {str(inside / name): md5 for name, md5 in members.items()}
    return root, check_md5s(folder, published, trust=trust)


def unpack(archive: Path, scratch: Path) -> Path:
    """Unpack a tar archive into a folder of its own.

    Members that would land outside that folder are refused, as is what is neither a file nor a
    folder. What an interrupted call has left there is removed first.

    Returns:
        The folder, ``scratch`` / name of the archive.

    Raises:
        UserError: if the archive is damaged or there is no room for it.
    """
    folder = scratch / archive.name
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(str(folder), filter=_plain)
    except Exception as error:  # damaged bytes raise nearly anything
        raise UserError(
            f"{archive} cannot be unpacked into {scratch} ({error}); "
            "download it again if it is damaged, or free space there."
        ) from error
    return folder


class _LinkError(tarfile.FilterError):
    """A member that is a link: data sets have none, and through a link others could leave."""


def _plain(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    if member.issym() or member.islnk():
        raise _LinkError(f"{member.name!r} is a link")
    return tarfile.data_filter(member, folder)
