"""What worker processes start with, and what is sent to them."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from benchmark.sources.examples import RawExamples, compact, list_files


def test_examples__import_nothing_heavy():
    code = "import sys, benchmark.sources.examples; print({'torch', 'scipy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_list_files__names_stay_out_of_what_is_sent(tmp_path):
    names = [f"{'folder' * 10}/größe {k}.png" for k in range(1000)]
    (tmp_path / names[999]).parent.mkdir()
    Image.new("L", (3, 2), 7).save(tmp_path / names[999])
    labels = {"class": np.arange(1000)}
    examples = list_files(tmp_path, compact(names), labels, tmp_path / "listing")
    sent = pickle.dumps(examples)
    assert len(sent) < 1000
    copy = pickle.loads(sent)
    assert len(copy) == 1000
    assert [*copy.files(0, 1000)] == [tmp_path / name for name in names]
    assert [*copy.files(998, 1000)] == [tmp_path / name for name in names[998:]]
    assert copy.read(999).image.size == (3, 2)
    assert copy.origin(0) == str(tmp_path / names[0])
    with pytest.raises(FileNotFoundError):
        copy.read(0)


def test_raw_examples__axes(tmp_path):
    stored = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 4), np.uint8)
    stored.tofile(tmp_path / "pixels")
    labels = {"class": np.arange(2)}
    for axes, size in (((1, 2, 0), (4, 5)), ((2, 1, 0), (5, 4))):
        examples = RawExamples(tmp_path / "pixels", "here", (3, 5, 4), axes, labels)
        assert examples.read(1).image.size == size
        assert np.array_equal(np.asarray(examples.read(1).image), stored[1].transpose(axes))
