"""Every data set that is packed: its YAML builds a source that says what it needs."""

import json
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from benchmark.sources.source import Source

FOLDER = Path(__file__).parents[3] / "benchmark/conf/data"
NAMES = (
    "cifar10 cifar100 stl10 imagenet100 imagenet100s imagenet100s_static inat2021 inat2021_mini "
    "flowers102 voc2012 clevr segmentation_folder"
)


@pytest.mark.parametrize("name", [*NAMES.split()])
def test_config__builds_a_source(name):
    config = OmegaConf.create(
        {"data_dir": "packs", "data": OmegaConf.load(FOLDER / f"{name}.yaml")}
    )
    data = config.data
    if name == "segmentation_folder":
        assert OmegaConf.is_missing(data.source, "num_classes")
        data.source.update(num_classes=2, class_names=["road", "rest"])
    source = instantiate(data.source)
    assert isinstance(source, Source)
    assert json.loads(json.dumps(source.identity()))["class"] == data.source._target_
    assert source.expects.startswith("DIR/")
    assert data.image_size <= data.stored_size
    assert (data.view == "centre") == (data.image_size < data.stored_size)
    text = (FOLDER / f"{name}.yaml").read_text()
    assert f"prepare.py data={name} source=DIR" in text
    assert data.get("option", data.name) == name
