"""iNaturalist 2021: JSON listings and labels at every level."""

import json
import pickle
import re

import numpy as np
import pytest
from PIL import Image

from benchmark.errors import UserError
from benchmark.sources import inaturalist

# Two genera Prunella, a bird and a plant, as there really are.
SPECIES = [
    "Animals Animalia Chordata Aves Passeriformes Prunellidae Prunella modularis",
    "Birds Animalia Chordata Aves Passeriformes Corvidae Pica pica",
    "Plants Plantae Tracheophyta Magnoliopsida Lamiales Lamiaceae Prunella vulgaris",
]


def category(number, line):
    supercategory, *taxa, epithet = line.split()
    levels = dict(
        zip(("kingdom", "phylum", "class", "order", "family", "genus"), taxa, strict=True)
    )
    return {
        "id": number,
        "name": f"{taxa[-1]} {epithet}",
        "common_name": "?",
        "supercategory": supercategory,
        **levels,
        "specific_epithet": epithet,
        "image_dir_name": "_".join([f"{number:05d}", *taxa, epithet]),
    }


def listing(root, name, species, start):
    """One JSON with one image per entry of ``species``, ids as scattered as the real ones."""
    categories = [category(number, line) for number, line in enumerate(SPECIES)]
    images, annotations = [], []
    for k, number in enumerate(species):
        file = f"{name}/{categories[number]['image_dir_name']}/{k:036x}.jpg"
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), (start + 5 * k, 0, 0)).save(root / file)
        extra = {"width": 30, "height": 20, "license": 0, "rights_holder": "?", "date": "?"}
        images.append({"id": start + k, "file_name": file, "latitude": None, **extra})
        annotations.append({"id": start + k, "image_id": start + k, "category_id": number})
    content = {
        "info": {"year": 2021, "version": "1.0"},
        "images": images,
        "categories": categories,
        "annotations": annotations[::-1],
        "licenses": [{"id": 0, "name": "?", "url": "?"}],
    }
    (root / f"{name}.json").write_text(json.dumps(content))
    return content


def mini(root):
    root.mkdir()
    listing(root, "train_mini", [2, 0, 1, 0], start=10)
    listing(root, "val", [1, 2], start=100)
    return root


def opened(folder, trust=True, **arguments):
    scratch = folder.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    return inaturalist.INaturalist2021(**arguments).open(folder, scratch, trust=trust)


def refused(message, folder, **arguments):
    with pytest.raises(UserError) as caught:
        opened(folder, **arguments)
    assert re.search(message, str(caught.value)), caught.value


def test_inaturalist__images_in_the_order_of_the_listing(tmp_path):
    contents = opened(mini(tmp_path / "a"), mini=True)
    train = contents.splits["train"]
    assert [*contents.splits] == ["train", "test"]
    assert len(train) == 4
    assert train.origin(1) == str(
        tmp_path / "a/train_mini/00000_Animalia_Chordata_Aves_Passeriformes_Prunellidae_Prunella_"
        f"modularis/{1:036x}.jpg"
    )
    for k, start in enumerate((10, 15, 20, 25)):
        image = np.asarray(train.read(k).image).astype(int)
        assert image.shape == (20, 30, 3)
        assert np.abs(image - (start, 0, 0)).max() < 4
    assert contents.checksums["val.json"].startswith("sha256:")
    listings = [tmp_path / f"a/{name}.json" for name in ("train_mini", "val")]
    assert [*contents.files] == listings
    assert [str(path) for path in train.files(1, 2)] == [train.origin(1)]


def test_inaturalist__labels_of_every_level(tmp_path):
    contents = opened(mini(tmp_path / "a"), mini=True)
    assert tuple(contents.class_names) == inaturalist.LEVELS
    found = {
        split: {
            level: [contents.class_names[level][label] for label in labels]
            for level, labels in examples.labels.items()
        }
        for split, examples in contents.splits.items()
    }
    assert found["train"]["kingdom"] == ["Plantae", "Animalia", "Animalia", "Animalia"]
    assert found["train"]["supercategory"] == ["Plants", "Animals", "Birds", "Animals"]
    assert found["test"]["phylum"] == ["Chordata", "Tracheophyta"]
    assert found["test"]["class"] == ["Aves", "Magnoliopsida"]
    assert found["test"]["species"] == ["Pica pica", "Prunella vulgaris"]
    assert found["test"]["genus"] == ["Pica", "Prunella (Plantae)"]
    assert found["train"]["genus"][:2] == ["Prunella (Plantae)", "Prunella (Animalia)"]
    assert contents.class_names["order"] == ("Lamiales", "Passeriformes")


def test_inaturalist__workers_get_no_labels(tmp_path):
    train = opened(mini(tmp_path / "a"), mini=True).splits["train"]
    copy = pickle.loads(pickle.dumps(train))
    assert copy.labels == {}
    assert len(train.labels) == 8
    assert np.array_equal(np.asarray(copy.read(2).image), np.asarray(train.read(2).image))


def test_inaturalist__full_reads_train(tmp_path):
    folder = mini(tmp_path / "a")
    refused(r"a lacks train\.json;", folder)
    listing(folder, "train", [1, 1, 1], start=0)
    contents = opened(folder)
    assert len(contents.splits["train"]) == 3
    assert contents.splits["train"].origin(0).startswith(str(folder / "train/00001_"))


def test_inaturalist__wrong_counts(tmp_path, monkeypatch):
    folder = mini(tmp_path / "a")
    message = "has 4 images in split train where 500,000 are published"
    refused(message, folder, mini=True, trust=False)
    monkeypatch.setattr(inaturalist, "_COUNTS", {"train_mini": 4, "val": 2})
    opened(folder, mini=True, trust=False)


def test_inaturalist__missing_images_are_named_at_once(tmp_path):
    folder = mini(tmp_path / "a")
    gone = sorted((folder / "val").glob("*/*.jpg"))
    for path in gone:
        path.unlink()
    first, second = (re.escape(str(path.relative_to(folder))) for path in gone)
    refused(f"^{folder} lacks {first}, {second}; unpack the archive again", folder, mini=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-200], "JSONDecodeError"),
        (lambda text: text.replace('"categories"', '"classes"'), "KeyError: 'categories'"),
        (lambda text: text.replace('"phylum"', '"class"'), "KeyError: 'phylum'"),
        (lambda text: text.replace('"category_id": 2', '"category_id": 7'), "KeyError: 7"),
        (lambda text: text.replace('"image_id": 12', '"image_id": 13'), "no annotation of train_"),
        (lambda text: "[]", "TypeError"),
    ],
)
def test_inaturalist__broken_listing_is_named(tmp_path, change, message):
    path = mini(tmp_path / "a") / "train_mini.json"
    path.write_text(change(path.read_text()))
    refused(f"{path} cannot be read.*{message}", path.parent, mini=True)


def test_inaturalist__wrong_layout(tmp_path):
    folder = mini(tmp_path / "a")
    (folder / "val").rename(folder / "valid")
    refused(r"has val\.json and no folder val/ with its images", folder, mini=True)
    (folder / "val.json").unlink()
    refused(r"a lacks val\.json;", folder, mini=True)
    (folder / "train_mini.json").unlink()
    refused(r"a holds train_mini/, valid/ where DIR/train\.json with", folder, mini=True)
