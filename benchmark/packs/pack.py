"""Packs: data sets as memory-mapped arrays, made once by ``benchmark/prepare.py``.

A pack is a folder with ``images.npy``, one array for each kind of ground truth, and the manifest.
Its splits are ranges of the same arrays, so that neighbours are joined without a copy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch

from benchmark.data import counted_statistics, fingerprint
from benchmark.dataset import Dataset, Split
from benchmark.errors import UserError
from benchmark.packs.fitting import Fit
from benchmark.packs.manifest import MANIFEST, DamagedPackError, MissingPackError, Recipe
from benchmark.packs.opened import Pack, Part
from benchmark.sources.source import Source


def load(
    *,
    name: str,
    data_dir: str,
    source: Source,
    stored_size: int,
    train: list[str] | str,
    test: list[str] | str | None = None,
    pretrain: list[str] | str | None = None,
    fit: Fit = "crop",
    labels: str | None = None,
    image_size: int | None = None,
    view: Literal["whole", "centre"] = "whole",
    pack: str | None = None,
    option: str | None = None,
) -> Dataset:
    """Open a pack as a data set; its arrays are memory-mapped, and changes stay in memory.

    Args:
        name: what tables and run folders call it.
        data_dir: folder of all packs.
        source: what the pack was made from.
        stored_size: side of the stored images in pixels.
        train: splits for training heads, neighbours in the pack.
        test: splits for scores; None for none.
        pretrain: splits for pretraining, whose mean and standard deviation count; None for
            ``train``.
        fit: how images became squares; see `benchmark.packs.fitting.square`.
        labels: name of the label set; None for the only one.
        image_size: side of the images that encoders see in pixels; None for ``stored_size``.
        view: see `benchmark.dataset.Dataset`.
        pack: the pack's folder, which sets of the same stored images may share; None for ``name``.
        option: what ``data=`` chooses this configuration by; None for ``name``.

    Raises:
        UserError: if there is no such pack, or it was made otherwise, or lacks what is asked for.
    """
    recipe = Recipe(pack or name, data_dir, source, stored_size, fit)
    prepare = recipe.command(option)
    if not (recipe.folder / MANIFEST).exists():
        raise MissingPackError(
            f"data={option or name} is not prepared, there is no {recipe.folder / MANIFEST}; run "
            f"{prepare}, where DIR is the folder of {source.expects}."
        )
    try:
        opened = Pack(recipe.folder)
    except DamagedPackError as error:
        raise UserError(
            f"{error.file} cannot be used because {error.problem}; run {prepare} replace=true."
        ) from error
    if mismatch := recipe.mismatch(opened.manifest):
        raise UserError(
            f"{recipe.folder} was {mismatch}; change that, data.name or data_dir, or run {prepare} "
            "replace=true."
        )
    size = stored_size if image_size is None else image_size
    if size < 1 or (view == "centre" and size > stored_size):
        raise UserError(
            f"data.image_size={size} must lie between 1 and the stored {stored_size} pixels."
        )
    chosen = opened.label_set(labels)
    parts = {
        key: opened.part(
            key,
            [names] if isinstance(names, str) else names,
            chosen,
            partly=key == "pretrain",
        )
        for key, names in (("train", train), ("test", test), ("pretrain", pretrain))
        if names is not None
    }
    class_names = opened.manifest.class_names[chosen] if chosen else ()
    pixel_class_names = opened.manifest.pixel_class_names
    more: dict[str, Any] = {"view": [size, view]} if size != stored_size else {}
    if pixel_class_names:
        more["pixel_class_names"] = pixel_class_names
    return replace(
        assemble(name, class_names, parts, **more),
        pixel_class_names=pixel_class_names,
        view_size=None if size == stored_size else size,
        view=view,
    )


def assemble(
    name: str, class_names: tuple[str, ...], parts: Mapping[str, Part], **more: object
) -> Dataset:
    """A data set of parts of packs.

    Args:
        name: stays out of the fingerprint: the same images are the same data under any name.
        class_names: of the labels.
        parts: "train", and perhaps "test" and "pretrain", as in `benchmark.dataset.Dataset`.
        more: whatever else makes the data what it is.
    """
    splits = {
        key: Split(**{name: torch.from_numpy(array) for name, array in part.arrays.items()})
        for key, part in parts.items()
    }
    train, test = parts["train"], parts.get("test")
    seen = parts.get("pretrain", train)
    if seen.digests != train.digests:
        more["pretrain"] = seen.digests
    return Dataset(
        name,
        splits["train"],
        splits.get("test"),
        class_names,
        *counted_statistics(seen.counts),
        fingerprint("images", class_names, train.digests, test.digests if test else None, **more),
        fingerprint("images", class_names, seen.digests),
        pretrain=splits["pretrain"] if "pretrain" in more else None,
    )
