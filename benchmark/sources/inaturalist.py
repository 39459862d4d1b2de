"""iNaturalist 2021 (Van Horn et al. 2021): 10,000 species, labels at every taxonomic level."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int64

from benchmark.errors import UserError
from benchmark.files import sha256_of
from benchmark.sources.checks import check_counts, check_present, listed, wrong_layout
from benchmark.sources.examples import FileExamples, compact, list_files
from benchmark.sources.source import Contents, Source

LEVELS = ("kingdom", "supercategory", "phylum", "class", "order", "family", "genus", "species")

_COUNTS = {"train": 2_686_843, "train_mini": 500_000, "val": 100_000}


class INaturalist2021(Source):
    """The images beside the JSON files that list them.

    The published validation images are the test split, as the labels of the published test
    images are not.

    Args:
        mini: read train_mini, 50 images of each species, in place of train.
    """

    version: ClassVar[int] = 1
    expects: ClassVar[str] = (
        "DIR/train.json with DIR/train/ or, for mini, DIR/train_mini.json with DIR/train_mini/, "
        "and DIR/val.json with DIR/val/"
    )

    def __init__(self, *, mini: bool = False) -> None:
        self.mini = mini

    def open(self, folder: Path, scratch: Path, *, trust: bool) -> Contents:
        """See the contract."""
        published = {"train": "train_mini" if self.mini else "train", "test": "val"}
        if not any((folder / f"{name}.json").is_file() for name in published.values()):
            raise wrong_layout(folder, self.expects)
        check_present(folder, [f"{name}.json" for name in published.values()])
        splits = {}
        checksums = {}
        taxonomy: _Taxonomy | None = None
        for split, name in published.items():
            path = folder / f"{name}.json"
            if not (folder / name).is_dir():
                raise UserError(
                    f"{folder} has {path.name} and no folder {name}/ with its images; "
                    f"unpack {name}.tar.gz there."
                )
            checksums[path.name] = f"sha256:{sha256_of(path)}"
            try:
                listing = json.loads(path.read_text(encoding="utf-8"), object_hook=_compact)
                taxonomy = taxonomy or _Taxonomy(listing["categories"])
                splits[split] = _examples(folder, listing, taxonomy, scratch / split)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                raise UserError(
                    f"{path} cannot be read as a listing of iNaturalist 2021 "
                    f"({type(error).__name__}: {error}); unpack or download it again."
                ) from error
            check_present(folder, (file for _, file in listing["images"]))
        counts = {split: _COUNTS[name] for split, name in published.items()}
        check_counts(folder, splits, counts, trust=trust)
        assert taxonomy is not None
        files = [folder / name for name in checksums]
        return Contents(dict(splits), taxonomy.class_names, checksums=checksums, files=files)


def _compact(record: dict[str, Any]) -> Any:
    """What is needed of one object of the JSON, made while it is parsed: it is 1 GB of text."""
    if "file_name" in record:
        return record["id"], record["file_name"]
    if "image_id" in record:
        return record["image_id"], record["category_id"]
    return record


class _Taxonomy:
    """Classes of every level; a name that two kingdoms share (genus Prunella) is two classes."""

    def __init__(self, categories: Sequence[dict[str, Any]]) -> None:
        self.row = {category["id"]: k for k, category in enumerate(categories)}
        self.class_names: dict[str, tuple[str, ...]] = {}
        self.labels: dict[str, Int64[np.ndarray, "categories"]] = {}
        for level in LEVELS:
            key = "name" if level == "species" else level
            taxa = [(category[key], category["kingdom"]) for category in categories]
            classes = sorted(set(taxa))
            number = {taxon: k for k, taxon in enumerate(classes)}
            bearers = Counter(name for name, _ in classes)
            self.labels[level] = np.array([number[taxon] for taxon in taxa], np.int64)
            self.class_names[level] = tuple(
                name if bearers[name] == 1 else f"{name} ({kingdom})" for name, kingdom in classes
            )


def _examples(
    folder: Path, listing: dict[str, Any], taxonomy: _Taxonomy, scratch_file: Path
) -> FileExamples:
    """The images of one JSON file in its order, with their labels of every level."""
    category_of = dict(listing["annotations"])
    images = listing["images"]
    unlabelled = [name for number, name in images if number not in category_of]
    if unlabelled:
        raise ValueError(f"no annotation of {listed(unlabelled)}")
    rows = np.array([taxonomy.row[category_of[number]] for number, _ in images], np.int64)
    labels = {level: of_category[rows] for level, of_category in taxonomy.labels.items()}
    return list_files(folder, compact(name for _, name in images), labels, scratch_file)
