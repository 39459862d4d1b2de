"""The embedded data sets `scenes` and `digits`."""

import inspect
from pathlib import Path

import PIL
import pytest
import torch
from omegaconf import OmegaConf
from sklearn import datasets

from benchmark import digits, folder, scenes
from benchmark.data import channel_statistics
from benchmark.errors import UserError

CONF = Path(scenes.__file__).parent / "conf" / "data"

# If a change of the data is wanted:
#   python -c "from benchmark import scenes; print(scenes.load().fingerprint)"
SCENES = "3c58952ee2420b16f6a08ee1dcff00d2af31fa8a267a88306241f9ca14b588af"
DIGITS = "36dd7d93a83eb071f25818d90b56a8c1d40efec62ed7fb98dccd64311c498f1f"


@pytest.fixture(scope="module")
def data():
    return scenes.load()


def test_load__same_bytes_on_every_machine(data):
    assert data.fingerprint == SCENES
    assert digits.load().fingerprint == DIGITS


def test_load__shape(data):
    assert (data.name, data.image_size, len(data.train), len(data.test)) == (
        "scenes",
        32,
        2000,
        1000,
    )
    assert data.class_names == tuple("0123456789")
    assert (data.mean, data.std) == channel_statistics(data.train.images)


def test_load__threads_do_not_matter(data):
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        assert scenes.load().fingerprint == data.fingerprint
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("count", [2, 256, 700])  # a part of a chunk and more than one
def test_load__smaller_set_is_a_prefix(data, count):
    small = scenes.load(train_count=count, test_count=count)
    for split in ("train", "test"):
        for name in ("images", "labels", "pixel_labels", "segments"):
            part = getattr(getattr(data, split), name)[:count]
            assert torch.equal(getattr(getattr(small, split), name), part)
    assert small.fingerprint != data.fingerprint


def test_load__prefix_beyond_all_digits(data):
    large = scenes.load(train_count=2500, test_count=2)
    assert torch.equal(large.train.images[:2000], data.train.images)
    assert len(large.train.images.flatten(1).unique(dim=0)) == 2500


def test_samples__splits_are_disjoint():
    train, _ = digits.samples("train")
    test, _ = digits.samples("test")
    assert (len(train), len(test)) == (1200, 597)
    both = torch.cat([train, test]).flatten(1).unique(dim=0)
    assert len(both) == 1797


def test_files__are_what_scikit_learn_loads():
    theirs, ours = datasets.load_digits(), [digits.samples(split) for split in ("train", "test")]
    ink, classes = (torch.cat(parts) for parts in zip(*ours, strict=True))
    assert torch.equal(ink, torch.from_numpy(theirs.images).long())
    assert torch.equal(classes, torch.from_numpy(theirs.target))
    for ours, name in zip(scenes._photographs(), ("china.jpg", "flower.jpg"), strict=True):
        assert torch.equal(ours, torch.tensor(datasets.load_sample_image(name)))


def test_wheel_file__is_not_there():
    with pytest.raises(
        UserError, match=r"scikit-learn's images/moon.jpg, of which .* is not there"
    ):
        digits.wheel_file("images/moon.jpg")


def test_summed__photograph_regions_are_disjoint():
    photographs = scenes._photographs()
    train, test = (scenes._summed(photographs, split) for split in ("train", "test"))
    columns = photographs.long().sum(1)  # photograph, column, channel
    assert torch.equal(train[:, -1].diff(dim=1), columns[:, :416])
    assert torch.equal(test[:, -1].diff(dim=1), columns[:, 416:])


def test_patches__averages_of_whole_boxes():
    photographs = scenes._photographs()
    sums = scenes._summed(photographs, "test")
    draws = scenes._Draws("test", torch.arange(20))
    patches = scenes._patches(draws, sums, 32, 96)
    for index in range(20):
        one = scenes._Draws("test", torch.tensor([index]))
        side = one("patch side", 32, 96).item()
        top = one("patch top", 0, 427 - side, 1).item()
        left = one("patch left", 0, 640 - 416 - side, 1).item()
        source = photographs[one("photograph", 0, 1).item(), top:, 416 + left :].float()
        rows = [(k * side // 32, (k + 1) * side // 32) for k in range(32)]
        for i, j in ((0, 0), (5, 30), (31, 31)):
            box = source[rows[i][0] : rows[i][1], rows[j][0] : rows[j][1]].mean((0, 1))
            assert (patches[index, :, i, j] - box).abs().max() <= 0.501


def test_draws__whole_range_including_its_ends():
    draws = scenes._Draws("train", torch.arange(3000))("anything", 3, 7)
    assert draws.bincount(minlength=9).tolist()[:3] == [0, 0, 0]
    assert draws.bincount()[3:].min() > 500
    assert len(draws.bincount()) == 8


@pytest.mark.parametrize("size", [6, 8, 20, 31])
def test_cover__is_bilinear_scaling(size):
    ink, _ = digits.samples("test")
    count = len(ink)
    top = torch.arange(count) % (32 - size + 1)
    left = torch.arange(count) * 7 % (32 - size + 1)
    found = digits.cover(ink, torch.full((count,), size), top, left, 32)
    scaled = torch.nn.functional.interpolate(
        ink[:, None].double() * 255 / 16, (size, size), mode="bilinear", antialias=False
    )
    for k in range(count):
        expected = torch.zeros(32, 32, dtype=torch.double)
        expected[top[k] : top[k] + size, left[k] : left[k] + size] = scaled[k, 0]
        assert (found[k] - expected).abs().max() <= 0.5001


def test_load__pixel_labels_and_segments_agree(data):
    for split in (data.train, data.test):
        counts = split.pixel_labels != 255
        assert torch.equal((split.pixel_labels > 0)[counts], (split.segments > 0)[counts])
        main = counts & (split.segments == 1)
        label = (split.labels + 1)[:, None, None].expand_as(main)
        assert torch.equal(split.pixel_labels[main].long(), label[main])
        assert main.flatten(1).any(1).all()
        for k in range(2, 5):  # one object, one class
            seen = torch.where(counts & (split.segments == k), split.pixel_labels, 0).flatten(1)
            assert all(len(set(row.tolist()) - {0}) <= 1 for row in seen[:200])
        assert split.segments.max() == 4
        assert set(split.pixel_labels.unique().tolist()) == {*range(11), 255}


def test_load__border_band_is_thin(data):
    ignored = (data.train.pixel_labels == 255).float().mean()
    objects = (data.train.segments > 0).float().mean()
    assert 0.02 < ignored < 0.6 * objects


def test_load__images_show_the_segments(data):
    # Digits are light and backgrounds are dark, so pixels tell the two apart.
    grey = data.test.images.float().mean(1)
    assert grey[data.test.segments > 0].mean() - grey[data.test.segments == 0].mean() > 60


def test_load__classes_are_balanced(data):
    for split in (data.train, data.test):
        counts = split.labels.bincount(minlength=10)
        assert counts.min() > 0.08 * len(split)


def test_load__main_digit_goes_everywhere():
    data = scenes.load(digit_size=(14, 14), distractors=(0, 0))
    assert data.train.segments.max() == 1
    covered = (data.train.segments == 1).float()
    place = torch.arange(32.0)
    weight = covered.sum((1, 2))
    rows = (covered.sum(2) @ place) / weight
    columns = (covered.sum(1) @ place) / weight
    for centre in (rows, columns):  # a uniform start in 0..18 has a deviation of 5.5
        assert abs(centre.mean() - 15.5) < 0.7
        assert 4.8 < centre.std() < 6.2
    assert abs(torch.corrcoef(torch.stack([rows, columns]))[0, 1]) < 0.1


def test_load__arguments_take_effect(data):
    flat = scenes.load(
        image_size=48,
        train_count=20,
        test_count=4,
        digit_size=(40, 40),
        distractors=(2, 2),
        brightness=(255, 255),
        background_contrast=0,
        background_level=10,
    )
    assert flat.image_size == 48
    assert flat.train.images.min() == 10
    assert flat.train.images.max() > 250
    assert set(flat.train.segments.unique().tolist()) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        ("image_size", 7, "image_size=7 is out of range; choose a number from 8 to 128"),
        ("train_count", 1, "train_count=1 is out of range"),
        ("test_count", 0, "test_count=0 is out of range"),
        ("digit_size", (18, 33), r"digit_size=\[18, 33\] is not a range; .* each from 1 to 32"),
        ("digit_size", (22, 18), r"digit_size=\[22, 18\] is not a range"),
        ("distractor_size", (6,), r"distractor_size=\[6\] is not a range"),
        ("distractors", (-1, 3), "distractors="),
        ("brightness", (200, 256), "brightness="),
        ("background_contrast", 101, "background_contrast=101"),
        ("background_level", -1, "background_level=-1"),
        ("max_crop", 8, "max_crop=8 is out of range; choose a number from 1 to 7"),
    ],
)
def test_load__bad_argument(argument, value, message):
    with pytest.raises(UserError, match=message):
        scenes.load(**{"train_count": 4, "test_count": 2, argument: value})


def test_load__another_jpeg_decoder(monkeypatch):
    monkeypatch.setitem(scenes._PHOTOGRAPHS, "flower.jpg", "0" * 64)
    message = f"Pillow {PIL.__version__} decodes .* flower.jpg .* JPEG decoder differs"
    with pytest.raises(UserError, match=message):
        scenes.load(train_count=4, test_count=2)


def test_digits__are_grey_and_fill_the_image():
    data = digits.load(image_size=40)
    assert data.name == "digits"
    assert data.image_size == 40
    assert (len(data.train), len(data.test)) == (1200, 597)
    assert torch.equal(data.train.images[:, 0], data.train.images[:, 2])
    assert data.train.images.max() == 255
    assert data.train.images.min() == 0


def test_digits__image_too_small():
    with pytest.raises(UserError, match="image_size=4 is too small for digits of 8 px"):
        digits.load(image_size=4)


@pytest.mark.parametrize("module", [scenes, digits, folder], ids=lambda m: m.__name__)
def test_conf__lists_every_argument_with_its_default(module):
    config = OmegaConf.load(CONF / f"{module.__name__.split('.')[-1]}.yaml")
    plain = OmegaConf.to_container(config)
    assert plain.pop("_target_") == f"{module.__name__}.load"
    parameters = inspect.signature(module.load).parameters
    assert list(plain) == list(parameters)
    for name, parameter in parameters.items():
        if name not in ("train", "cache_dir"):  # a must, and a path that only a run knows
            default = parameter.default
            assert plain[name] == (list(default) if isinstance(default, tuple) else default)


def test_conf__hydra_builds_the_same_scenes():
    from hydra.utils import instantiate

    config = OmegaConf.load(CONF / "scenes.yaml")
    config.train_count, config.test_count = 8, 4
    built = instantiate(config)
    assert built.fingerprint == scenes.load(train_count=8, test_count=4).fingerprint
