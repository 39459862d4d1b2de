"""Any folders of images as a data set, without preparing it: class subfolders, or no labels.

The images are packed as `benchmark.packs.packing` does it and kept in memory; with a cache folder
the packs are kept there, and memory-mapped by every later run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmark.contracts import Dataset, Split, UserError
from benchmark.packs.manifest import DamagedPackError, Recipe
from benchmark.packs.pack import Pack, Part, assemble
from benchmark.packs.packing import existing, state_of
from benchmark.packs.workers import num_cores
from benchmark.packs.writer import write_pack
from benchmark.progress import Event
from benchmark.sources.files import FolderExamples
from benchmark.sources.folder import Folder, list_folder


def load(
    *,
    train: str | Path,
    test: str | Path | None = None,
    image_size: int = 32,
    on_bad_image: str = "error",
    cache_dir: str | Path | None = None,
    name: str = "folder",
) -> Dataset:
    """Read one or two folders of images.

    A folder holds one subfolder per class, or images without labels. Images of any colour mode
    become RGB, their shorter side ``image_size`` (bicubic with antialiasing), and the centre
    square is kept. Hidden files and files that are not images are ignored.

    Args:
        train: folder to train on.
        test: folder of the same classes to score on.
        image_size: side of the images in pixels.
        on_bad_image: "error" stops at an image that cannot be read, "skip" leaves it out.
        cache_dir: where the decoded images are kept; None keeps nothing.
        name: what tables and run folders call the data set.
    """
    source = Folder(on_bad_image=on_bad_image)
    if image_size < 1:
        raise UserError(f"image_size={image_size} is not a size; give a number of pixels above 0.")
    listings = {"train": list_folder("train", train)}
    if test is not None:
        listings["test"] = list_folder("test", test)
    source.contents(listings)  # refuses other classes
    parts = {
        split: _part(source, listing, image_size, cache_dir) for split, listing in listings.items()
    }
    return assemble(name, listings["train"].class_names, parts)


def _part(
    source: Folder, listing: FolderExamples, image_size: int, cache_dir: str | Path | None
) -> Part:
    """The images of a folder, from the cache or decoded."""
    contents = source.contents({"images": listing})
    recipe = Recipe("images", cache_dir or ".", source, image_size)

    def pack_in(work: str) -> Path:
        folder, cores = listing.folder, num_cores()
        return write_pack(Path(work), recipe, contents, folder, workers=cores, emit=_say_nothing)

    if cache_dir is None:
        with _writable("the folder for temporary files"), TemporaryDirectory() as temporary:
            part = _checked(pack_in(temporary), listing)
            tensors = {array: getattr(part.split, array).clone() for array in part.digests}
        return replace(part, split=Split(**tensors))
    cache = Path(cache_dir).expanduser()
    entry = cache / state_of(recipe, listing.folder, listing)[:16]
    if not entry.exists():
        with _writable(f"cache_dir={cache}"), existing(cache):
            with TemporaryDirectory(dir=cache, prefix=f".{entry.name}-") as temporary:
                pack = pack_in(temporary)
                try:
                    pack.replace(entry)
                except OSError:
                    if not entry.exists():  # else another process was faster, with the same arrays
                        raise
    return _checked(entry, listing)


def _say_nothing(_event: Event) -> None:
    pass


def _checked(folder: Path, listing: FolderExamples) -> Part:
    """Open a pack and check every byte of it."""
    try:
        pack = Pack(folder)
        for change in pack.changes():
            raise change
    except DamagedPackError as error:
        raise UserError(
            f"cache file {error.file} is damaged ({error.problem}); delete the folder {folder} "
            "and run again."
        ) from error
    if skipped := pack.manifest.splits["images"].skipped:
        print(
            f"skipped {len(skipped)} unreadable images of {len(listing)} in {listing.folder}, "
            f"first: {listing.folder / skipped[0]}",
            file=sys.stderr,
        )
    return pack.part("train", ["images"], pack.label_set(None), partly=False)


@contextmanager
def _writable(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{where} cannot be written ({error}); free space there, choose another folder, or set "
            "cache_dir to null."
        ) from error
