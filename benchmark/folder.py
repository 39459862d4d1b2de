"""Any folders of images as a data set, without preparing it: class subfolders, or no labels.

Each folder becomes a pack when it is first used. It is copied to memory, or kept in a cache folder
and memory-mapped by every later run.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmark.dataset import Dataset
from benchmark.errors import UserError
from benchmark.files import nothing_new
from benchmark.lock import exclusive, remove_held
from benchmark.packs.manifest import DamagedPackError, Recipe
from benchmark.packs.opened import Pack, Part
from benchmark.packs.pack import assemble
from benchmark.packs.packing import prepare, state_of
from benchmark.packs.workers import num_cores
from benchmark.packs.writer import UnreadableError
from benchmark.sources.folder import Folder, Listing, check_alike, list_folder


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
        on_bad_image: "error" stops at images that cannot be read, "skip" leaves them out.
        cache_dir: where the decoded images are kept; None keeps nothing.
        name: what tables and run folders call the data set.
    """
    source = Folder(on_bad_image=on_bad_image)
    if image_size < 1:
        raise UserError(f"image_size={image_size} is not a size; give a number of pixels above 0.")
    listings = {"train": list_folder("train", train)}
    if test is not None:
        listings["test"] = list_folder("test", test)
    check_alike(listings)
    parts = {}
    for split, listing in listings.items():
        if cache_dir is None:
            with TemporaryDirectory() as temporary:
                part = _part(Recipe("images", temporary, source, image_size), listing)
                copies = {name: array.copy() for name, array in part.arrays.items()}
            parts[split] = replace(part, arrays=copies)
        else:
            recipe = Recipe("images", cache_dir, source, image_size)
            key = state_of(recipe, listing.folder, listing.paths())[:16]
            parts[split] = _part(replace(recipe, name=key), listing)
    return assemble(name, listings["train"].class_names, parts)


def _part(recipe: Recipe, listing: Listing) -> Part:
    """The images of a folder, packed unless they are, and every byte of them checked."""
    if not recipe.folder.exists():
        _pack(recipe, listing.folder)
    try:
        pack = Pack(recipe.folder)
        for change in pack.changes():
            raise change
    except DamagedPackError as error:
        raise UserError(
            f"cache file {error.file} is damaged ({error.problem}); delete the folder "
            f"{recipe.folder} and run again."
        ) from error
    if skipped := pack.manifest.splits["train"].skipped:
        print(
            f"skipped {len(skipped)} unreadable images of {len(listing)} in {listing.folder}, "
            f"first: {listing.folder / skipped[0]}",
            file=sys.stderr,
        )
    return pack.part("train", ["train"], pack.label_set(None), partly=False)


def _pack(recipe: Recipe, folder: Path) -> None:
    def say_nothing(*_: object) -> None:
        pass

    with nothing_new(recipe.folder.parent):
        try:
            prepare(
                recipe, folder, workers=num_cores(), trust=False, replace=False, emit=say_nothing
            )
        except UnreadableError:
            # Once the images are repaired or skipped they have another key: nobody would go on.
            with exclusive(recipe.work, say_nothing):
                remove_held(recipe.work)
            raise
