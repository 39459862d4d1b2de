"""Every data set that is packed: its YAML builds a source that says what it needs."""

import json
import re
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from benchmark.sources.source import Source

FOLDER = Path(__file__).parents[3] / "benchmark/conf/data"
FILES = sorted(FOLDER.glob("*.yaml"))
PACKED = [file.stem for file in FILES if "_target_: benchmark.packs.pack.load" in file.read_text()]


def test_configs__are_found():
    assert {"cifar10", "images", "voc2012"} <= set(PACKED) < {file.stem for file in FILES}


@pytest.mark.parametrize("name", PACKED)
def test_config__builds_a_source(name):
    config = OmegaConf.create(
        {"data_dir": "packs", "data": OmegaConf.load(FOLDER / f"{name}.yaml")}
    )
    data = config.data
    if name == "segmentation_folder":
        assert OmegaConf.is_missing(data.source, "num_classes")
        data.source.update(num_classes=2, class_names=["road", "rest"])
    source = instantiate(data.source, _convert_="all")
    assert isinstance(source, Source)
    assert json.loads(json.dumps(source.identity()))["class"] == data.source._target_
    assert source.expects.startswith("DIR/")
    assert data.image_size <= data.stored_size
    assert (data.view == "centre") == (data.image_size < data.stored_size)
    text = (FOLDER / f"{name}.yaml").read_text()
    assert re.search(rf"prepare\.py data={name} .*source=DIR", text)
    assert data.get("option", data.name) == name


@pytest.mark.parametrize("name", PACKED)
def test_config__what_shares_a_pack_stores_the_same(name):
    data = OmegaConf.load(FOLDER / f"{name}.yaml")
    owner = OmegaConf.load(FOLDER / f"{data.get('pack', name)}.yaml")
    for key in ("source", "stored_size", "fit"):
        assert data[key] == owner[key]
