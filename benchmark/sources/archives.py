"""Tar archives, compressed or not, unpacked where the user's folder stays as it is."""

from __future__ import annotations

import shutil
import tarfile
import zlib
from pathlib import Path

from benchmark.contracts import UserError


def unpack(archive: Path, scratch: Path) -> Path:
    """Unpack a tar archive into a folder of its own.

    Members that would land outside that folder, and special files, are refused. What an
    interrupted call has left there is removed first.

    Returns:
        The folder, ``scratch`` / name of the archive.

    Raises:
        UserError: if the archive is damaged or there is no room for it.
    """
    folder = scratch / archive.name
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        raise UserError(
            f"{archive} cannot be unpacked into {scratch} ({error}); "
            "download it again if it is damaged, or free space there."
        ) from error
    return folder
