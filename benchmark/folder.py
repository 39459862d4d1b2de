"""Any folder of images as a data set: class subfolders, or images without labels.

The images are decoded once, scaled and cropped to squares of one size, and kept in memory as
bytes; with a cache folder they are kept there, and memory-mapped by every later run.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import PIL
import torch
from jaxtyping import UInt8
from PIL import Image

from benchmark.contracts import Dataset, Split, UserError
from benchmark.data import channel_statistics, digest, digests, fingerprint

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")

_LAYOUT = "put images directly into it, or into one subfolder per class"
_PACK_VERSION = 1  # raised whenever the same files would give other arrays


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
    if on_bad_image not in ("error", "skip"):
        raise UserError(f'on_bad_image="{on_bad_image}" is unknown; use "error" or "skip".')
    if image_size < 1:
        raise UserError(f"image_size={image_size} is not a size; give a number of pixels above 0.")
    listings = [_list("train", train)] + ([] if test is None else [_list("test", test)])
    if len(listings) == 2:
        _check_alike(*listings)
    packs = [_pack(listing, image_size, on_bad_image, cache_dir) for listing in listings]
    class_names = listings[0].class_names
    statistics = channel_statistics(packs[0].split.images)
    # The name stays out: the same images are the same data under any name.
    identity = fingerprint("images", class_names, *(pack.digests for pack in packs))
    train_identity = fingerprint("images", class_names, packs[0].digests)
    scored = packs[1].split if len(packs) == 2 else None
    return Dataset(name, packs[0].split, scored, class_names, *statistics, identity, train_identity)


@dataclass(frozen=True)
class _Listing:
    """The images of one folder; ``files`` are relative to it, ``labels`` None if it is flat."""

    folder: Path
    files: tuple[str, ...]
    labels: tuple[int, ...] | None
    class_names: tuple[str, ...]


def _list(argument: str, given: str | Path) -> _Listing:
    folder = Path(given).expanduser()
    if not folder.is_dir():
        raise UserError(f"{argument}={folder} is not a folder; give the path of one with images.")
    images, classes = _contents(folder)
    if images and classes:
        raise UserError(
            f"{argument}={folder} has both images ({images[0]}, ...) and subfolders "
            f"({classes[0]}, ...); {_LAYOUT}, not both."
        )
    files: list[str] = images
    labels: list[int] = []
    for label, class_name in enumerate(classes):
        members, nested = _contents(folder / class_name)
        if nested:
            raise UserError(
                f"{folder / class_name} has subfolders ({nested[0]}, ...) where images are "
                f"expected; give {argument} a folder whose subfolders are the classes."
            )
        if not members:
            raise UserError(
                f"class folder {folder / class_name} has no images ({_listed(SUFFIXES)}); "
                "fill or remove it."
            )
        files += [f"{class_name}/{member}" for member in members]
        labels += [label] * len(members)
    if len(files) < 2:
        raise UserError(
            f"{argument}={folder} has {len(files)} images ({_listed(SUFFIXES)}) and at least 2 "
            f"are needed; {_LAYOUT}."
        )
    return _Listing(folder, tuple(files), tuple(labels) if classes else None, tuple(classes))


def _contents(folder: Path) -> tuple[list[str], list[str]]:
    """Sorted names of images and of subfolders, without hidden ones."""
    images, subfolders = [], []
    try:
        entries = [*os.scandir(folder)]
    except OSError as error:
        raise UserError(
            f"{folder} cannot be listed ({error.strerror}); make it readable."
        ) from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            subfolders.append(entry.name)
        elif entry.name.lower().endswith(SUFFIXES):
            images.append(entry.name)
    return sorted(images), sorted(subfolders)


def _check_alike(train: _Listing, test: _Listing) -> None:
    if (train.labels is None) != (test.labels is None):
        flat, other = (train, test) if train.labels is None else (test, train)
        raise UserError(
            f"{other.folder} has class subfolders but {flat.folder} has images without classes; "
            "give train and test the same layout."
        )
    missing = set(train.class_names) - set(test.class_names)
    extra = set(test.class_names) - set(train.class_names)
    if missing or extra:
        raise UserError(
            f"the classes of test={test.folder} differ from those of train={train.folder}: "
            f"missing {_listed(sorted(missing))}, extra {_listed(sorted(extra))}; "
            "give both folders the same subfolders."
        )


def _listed(words: Iterable[str]) -> str:
    first, rest = [*words][:10], [*words][10:]
    return (", ".join(first) or "none") + (f" and {len(rest)} more" if rest else "")


@dataclass(frozen=True)
class _Pack:
    """A folder's arrays, their digests, and which of its files could not be read."""

    split: Split
    digests: dict[str, str]
    skipped: list[str]


def _pack(
    listing: _Listing, image_size: int, on_bad_image: str, cache_dir: str | Path | None
) -> _Pack:
    if cache_dir is None:
        pack = _decode_all(listing, image_size, on_bad_image)
    else:
        entry = Path(cache_dir).expanduser() / _key(listing, image_size, on_bad_image)
        if not entry.exists():
            _store(_decode_all(listing, image_size, on_bad_image), entry)
        pack = _restore(entry)
    if pack.skipped:
        print(
            f"skipped {len(pack.skipped)} unreadable images of {len(listing.files)} in "
            f"{listing.folder}, first: {listing.folder / pack.skipped[0]}",
            file=sys.stderr,
        )
    return pack


def _decode_all(listing: _Listing, image_size: int, on_bad_image: str) -> _Pack:
    paths = [listing.folder / file for file in listing.files]
    images = np.empty((len(paths), 3, image_size, image_size), np.uint8)

    def decode(position: int) -> str | None:
        try:
            images[position] = _square(paths[position], image_size)
        except Exception as error:  # damaged bytes make Pillow's decoders raise nearly anything
            return str(error) or type(error).__name__
        return None

    Image.init()  # Pillow's own first call of it is a race between threads
    bad = []
    with ThreadPoolExecutor() as pool:
        for position, problem in enumerate(pool.map(decode, range(len(paths)))):
            if problem is not None and on_bad_image == "error":
                pool.shutdown(wait=False, cancel_futures=True)
                raise UserError(
                    f"{paths[position]} cannot be read as an image ({problem}); repair or remove "
                    "it, or set on_bad_image=skip."
                )
            if problem is not None:
                bad.append(position)
    labels = None if listing.labels is None else torch.tensor(listing.labels)
    if bad:
        keep = sorted(set(range(len(paths))) - set(bad))
        images = images[keep]
        labels = None if labels is None else labels[keep]
        _check_left(listing, keep)
    split = Split(torch.from_numpy(images), labels)
    return _Pack(split, digests(split), [listing.files[position] for position in bad])


def _check_left(listing: _Listing, keep: list[int]) -> None:
    """Complain if skipping left too little to work with."""
    if len(keep) < 2:
        raise UserError(
            f"only {len(keep)} of {len(listing.files)} images in {listing.folder} can be read and "
            "at least 2 are needed; repair the others."
        )
    filled = {listing.labels[position] for position in keep} if listing.labels else set()
    for label, class_name in enumerate(listing.class_names):
        if label not in filled:
            raise UserError(
                f"class folder {listing.folder / class_name} has no image that can be read; "
                "repair its images or remove it."
            )


def _square(path: Path, size: int) -> UInt8[np.ndarray, "3 size size"]:
    with Image.open(path) as file:
        image: Image.Image = file
        if image.mode.startswith("I"):  # 16-bit grey, which `convert` would clip at 255
            image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        image = image.convert("RGB")
    short = min(image.size)
    width, height = (side * size // short for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(image.crop((left, top, left + size, top + size))).transpose(2, 0, 1)


def _key(listing: _Listing, image_size: int, on_bad_image: str) -> str:
    """Hash of what decides the arrays; Pillow's version does, as decoders differ."""
    state = hashlib.sha256()
    settings = [_PACK_VERSION, PIL.__version__, image_size, on_bad_image]
    state.update(json.dumps([*settings, str(listing.folder.resolve())]).encode())
    for file in listing.files:
        try:
            stat = (listing.folder / file).stat()
            state.update(json.dumps([file, stat.st_size, stat.st_mtime_ns]).encode())
        except OSError:  # such as a dangling link; decoding will name it
            state.update(json.dumps([file]).encode())
    return state.hexdigest()[:16]


def _store(pack: _Pack, entry: Path) -> None:
    """Write a pack so that ``entry`` is whole as soon as it exists."""
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=entry.parent, prefix=f".{entry.name}-") as temporary:
            folder = Path(temporary) / entry.name
            folder.mkdir()
            for name in pack.digests:
                np.save(folder / f"{name}.npy", getattr(pack.split, name).numpy())
            meta = {"digests": pack.digests, "skipped": pack.skipped}
            (folder / "pack.json").write_text(json.dumps(meta))
            try:
                folder.replace(entry)
            except OSError:
                if not entry.exists():  # else another process was faster, with the same arrays
                    raise
    except OSError as error:
        raise UserError(
            f"cache_dir={entry.parent} cannot be written ({error}); free space there, choose "
            "another folder, or set it to null."
        ) from error


def _restore(entry: Path) -> _Pack:
    """Memory-map a pack, copy-on-write, and check every byte of it."""
    file = entry / "pack.json"
    arrays = {}
    try:
        meta = json.loads(file.read_text())
        skipped = [str(name) for name in meta["skipped"]]
        for name, expected in meta["digests"].items():
            file = entry / f"{name}.npy"
            arrays[name] = torch.from_numpy(np.load(file, mmap_mode="c"))
            if digest(arrays[name]) != expected:
                raise ValueError("its SHA-256 is another")
        return _Pack(Split(**arrays), meta["digests"], skipped)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"cache file {file} is damaged ({error}); delete the folder {entry} and run again."
        ) from error
