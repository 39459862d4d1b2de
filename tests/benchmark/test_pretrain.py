"""What the loop hands to the trainer: objects, last batches, statistics, and what it costs."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmark import digits, scenes
from benchmark.augment import Augment
from benchmark.build import normalised_as
from benchmark.config import NormalisationConfig
from benchmark.contracts import Batch, MaskingMethod
from benchmark.dataset import Dataset
from benchmark.encoders import ResNet
from benchmark.errors import UserError
from benchmark.interruption import Interrupted, listen
from benchmark.metrics import NonFiniteLossError
from benchmark.objectives import SimCLR
from benchmark.optim import build_optimiser
from benchmark.pretrain import Pretraining
from benchmark.profiling import SECTIONS
from benchmark.schedule import Schedule
from benchmark.streams import seeded
from benchmark.trainer import Trainer
from benchmark.turns import Turns
from methods.none import NoMask
from methods.oracle import Oracle
from methods.sequential import Sequential
from methods.superpixel import Superpixel

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return scenes.load(train_count=22, test_count=8)


def make_training(data: Dataset, method: MaskingMethod, **changes) -> Pretraining:
    with seeded(0, "test/nets"):
        encoder = ResNet(width=8, stem="stride2")
        objective = SimCLR(encoder, feature_dim=64, hidden_dim=16, output_dim=8)
    sgd = {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.0}
    trainer = Trainer(
        encoder=encoder,
        objective=objective,
        method=method,
        probe=None,
        encoder_optimiser=build_optimiser((encoder, objective), **sgd),
        mask_optimiser=build_optimiser((method,), **sgd) if method.adversarial else None,
        batchnorm="once",
        precision="fp32",
        turns=changes.pop("turns", Turns()),
    )
    settings = {
        "seed": 0,
        "epochs": 1,
        "batch_size": 8,
        "base_rates": (0.01, 0.01),
        "schedule": Schedule("step", 0.0, 0.0),
        "device": CPU,
        "residence": "auto",
        "drop_last": True,
        "log_every_steps": 1,
        "log_limits": False,
        "checkpoint_every_seconds": 0.0,
    }
    augment = Augment(data.image_size)
    return Pretraining(trainer, data, data.pretraining, augment, **(settings | changes))


def first_batch(training: Pretraining, count: int) -> Batch:
    index = torch.arange(count)
    return training.batches.augmented(0, 0, training.feed.take(index))


def test_batch__objects_move_with_the_pixels_of_each_view(data: Dataset) -> None:
    """Where the images are the objects' own numbers, both views still agree with them."""
    painted = (data.train.segments[:, None] * 40).expand(-1, 3, -1, -1).contiguous()
    split = replace(data.train, images=painted)
    training = make_training(replace(data, train=split), Oracle(num_masks=3))
    training.batches.augment = Augment(
        data.image_size, min_scale=0.3, jitter_prob=0.0, grayscale_prob=0.0, blur_prob=0.0
    )
    batch = first_batch(training, 16)
    shown = batch.pixels[:, :, 0] * 255 / 40
    agree = (shown - batch.segments).abs() < 0.5
    assert agree.float().mean() > 0.9  # bicubic edges lie between two objects
    assert not torch.equal(batch.segments[0], batch.segments[1])


def test_batch__objects_are_there_only_for_those_who_ask(data: Dataset) -> None:
    assert first_batch(make_training(data, NoMask()), 4).segments is None


def seen_by(encoder: nn.Module) -> list[int]:
    """Fills with the sizes of the batches that the encoder sees in training."""
    sizes: list[int] = []

    def note(module: nn.Module, arguments: tuple, _output: object) -> None:
        if module is encoder:  # and not the copy on which the cost is counted
            sizes.append(len(arguments[0]))

    encoder.register_forward_hook(note)
    return sizes


@pytest.mark.parametrize(("drop_last", "steps"), [(True, 2), (False, 3)])
def test_run__last_batch(data: Dataset, tmp_path, drop_last: bool, steps: int) -> None:
    training = make_training(data, NoMask(), drop_last=drop_last)
    sizes = seen_by(training.trainer.encoder)
    cost = training.run(tmp_path, "test", lambda *_: None)
    assert sizes == [8] * 4 + ([] if drop_last else [6] * 2)
    assert training.steps == steps
    assert cost["encoder_forwards"] == sum(sizes)


def test_cost__counts_what_the_encoder_really_sees(data: Dataset, tmp_path) -> None:
    method = Sequential(image_size=32, num_masks=3, width=8, norm="none", budget=0.25)
    training = make_training(data, method, turns=Turns(encoder_steps=2))
    sizes = seen_by(training.trainer.encoder)
    cost = training.run(tmp_path, "test", lambda *_: None)
    assert sizes == [8] * (4 + 4 + 4)  # two encoder steps, one turn of the adversary
    assert cost["encoder_forwards"] == sum(sizes)


def test_normalised_as__replaces_the_data_sets_own_statistics(data: Dataset) -> None:
    wanted = NormalisationConfig(std=[0.228, 0.224, 0.225])
    changed = normalised_as(data, wanted)
    assert changed == replace(data, std=(0.228, 0.224, 0.225))
    plain, other = (first_batch(make_training(d, NoMask()), 4) for d in (data, changed))
    ratio = torch.tensor(data.std) / torch.tensor(changed.std)
    torch.testing.assert_close(other.views, plain.views * ratio.view(1, 1, 3, 1, 1))
    with pytest.raises(UserError, match=r"normalisation.std=.* must be null or three numbers"):
        normalised_as(data, NormalisationConfig(std=[0.2]))


def test_plain_batch__images_as_they_are(data: Dataset) -> None:
    batch = make_training(data, NoMask()).batches.plain(data.test, 5, CPU)
    assert torch.equal((batch.pixels[1] * 255).round().to(torch.uint8), data.test.images[:5])
    assert torch.equal(batch.segments[1], data.test.segments[:5].long())
    assert batch.progress == 1.0
    plain = make_training(digits.load(), NoMask()).batches.plain(digits.load().test, 3, CPU)
    assert plain.segments is None


def test_plain_batch__shows_the_view_of_the_data_set(data: Dataset) -> None:
    centre = replace(data, view_size=20, view="centre")
    batch = make_training(centre, Oracle(num_masks=3)).batches.plain(data.test, 4, CPU)
    assert torch.equal(batch.pixels[1] * 255, data.test.images[:4, :, 6:26, 6:26].float())
    assert torch.equal(batch.segments[1], data.test.segments[:4, 6:26, 6:26].long())


def test_run__images_on_the_host_give_the_same_bytes(data: Dataset, tmp_path) -> None:
    states = []
    for residence in ("device", "host"):
        training = make_training(data, Oracle(num_masks=3), residence=residence, epochs=2)
        assert training.feed.resident == (residence == "device")
        training.run(tmp_path / residence, "test", lambda *_: None)
        states.append(training.trainer.encoder.state_dict())
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())


@pytest.mark.parametrize("update", ["alternating", "simultaneous"])
def test_run__another_update_is_told_in_the_log(data: Dataset, tmp_path, update: str) -> None:
    training = make_training(data, Sequential(32, 2, 8, "none", budget=0.25))
    training.trainer.update = update
    told: list[str] = []
    training.run(tmp_path, "test", lambda text, *_: told.append(text))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    another = update == "simultaneous"
    assert {line.get("update") for line in lines} == {update if another else None}
    assert all(("simultaneous update" in text) == another for text in told)


@pytest.mark.parametrize("at_once", [False, True])
def test_cost__is_of_images_however_views_are_encoded(data: Dataset, at_once: bool) -> None:
    method = Sequential(image_size=32, num_masks=3, width=8, norm="none", budget=0.25)
    training = make_training(data, method)
    training.trainer.objective.at_once = at_once
    assert training.cost_per_image().encoder_forwards == 2 * (1 + 3)


def by_superpixels(superpixels_of: str) -> Superpixel:
    return Superpixel(32, 3, 16, 0.1, 3, 5, "rgb", superpixels_of=superpixels_of)


class ReadOff:
    """Finds the numbers that were painted."""

    finds = "painted"

    def segment(self, pixels: Tensor) -> Tensor:
        return (pixels[:, 0] * 17).round().long()


def test_batch__superpixels_of_the_image_follow_the_crop(data: Dataset) -> None:
    """Where an image's pixels are its superpixels' own numbers, those of its views are too."""
    method = by_superpixels("image")
    split = data.train
    labels = method.segmenter.segment(split.images / 255)
    painted = replace(split, images=(labels[:, None] * 15).expand(-1, 3, -1, -1).byte())
    training = make_training(replace(data, train=painted), method)
    training.batches.segmenter = ReadOff()
    training.batches.augment = Augment(
        data.image_size, min_scale=0.3, jitter_prob=0.0, grayscale_prob=0.0, blur_prob=0.0
    )
    batch = first_batch(training, 16)
    agree = (batch.pixels[:, :, 0] * 17 - batch.superpixels).abs() < 0.5
    assert agree.float().mean() > 0.8  # bicubic edges lie between two superpixels
    assert first_batch(make_training(data, by_superpixels("view")), 4).superpixels is None


def test_run__superpixels_from_the_cache_give_the_same_bytes(data: Dataset, tmp_path) -> None:
    states = []
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        training = make_training(data, by_superpixels("image"), epochs=2, cache=cache)
        told: list[tuple] = []
        training.run(tmp_path / str(len(states)), "test", lambda *words, to=told: to.append(words))
        assert (("superpixels 22/22", 0, False) in told) == (len(states) == 1)
        states.append(training.trainer.encoder.state_dict())
    for state in states[1:]:
        assert all(torch.equal(state[name], value) for name, value in states[0].items())


@pytest.mark.parametrize(("epochs", "traced"), [(2, 1), (8, 5)])
def test_run__profile_tells_where_the_time_goes(
    data: Dataset, tmp_path, epochs: int, traced: int
) -> None:
    method = Sequential(image_size=32, num_masks=2, width=8, norm="none", budget=0.25)
    training = make_training(data, method, epochs=epochs, profile=True, log_limits=True)
    training.run(tmp_path, "test", lambda *_: None)
    page = (tmp_path / "profile/summary.md").read_text()
    assert f"{traced} step{'s' * (traced > 1)} of 8 images" in page
    parts = re.findall(r"^\| ([\w' ]+) \| ([\d.]+) \| \d+% \|$", page, re.MULTILINE)
    assert [name for name, _ in parts] == list(SECTIONS)
    assert all(float(milliseconds) > 0 for _, milliseconds in parts)
    assert "`aten::" in page
    events = json.loads((tmp_path / "profile/trace.json").read_text())["traceEvents"]
    steps = [e for e in events if e.get("name") == "maskbench: encoder's step"]
    assert len(steps) >= traced


@pytest.mark.parametrize("steps", [2, 3])
def test_run__a_training_too_short_to_profile_says_so(data: Dataset, tmp_path, steps: int) -> None:
    short = {"batch_size": 22 // steps, "profile": True}
    make_training(data, NoMask(), **short).run(tmp_path, "test", lambda *_: None)
    assert f"training had {steps} steps" in (tmp_path / "profile/summary.md").read_text()
    assert not (tmp_path / "profile/trace.json").exists()


def long_training(data: Dataset, **changes) -> Pretraining:
    """Nine steps with two players, and a third of an epoch's batches smaller than the others."""
    with seeded(0, "test/method"):
        method = Sequential(image_size=32, num_masks=2, width=8, norm="batch", budget=0.25)
    settings = {"epochs": 3, "drop_last": False, "log_every_steps": 2}
    return make_training(data, method, **settings | changes)


def outcome(training: Pretraining, folder: Path) -> tuple[list[Tensor], list[dict]]:
    """Every state, and the metrics without times."""
    trainer = training.trainer
    nets = (trainer.encoder, trainer.objective, trainer.method)
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    states = [value.clone() for net in nets for value in net.state_dict().values()]
    return states, [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def same(one: tuple[list[Tensor], list[dict]], other: tuple[list[Tensor], list[dict]]) -> bool:
    return one[1] == other[1] and all(map(torch.equal, one[0], other[0]))


def at_step(step: int, act: Callable[[], object]) -> Callable[..., None]:
    """Does something while a step is under way, as nothing is told before its end."""
    steps = []

    def hook(*_: object) -> None:
        steps.append(1)
        if len(steps) == step:
            act()

    return hook


def stopped_after(data: Dataset, folder: Path, step: int, **changes) -> None:
    training = long_training(data, **changes)

    def stop() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    training.trainer.encoder_optimiser.register_step_post_hook(at_step(step, stop))
    with pytest.raises(Interrupted), listen():
        training.run(folder, "test", lambda *_: None)


@pytest.fixture(scope="module")
def whole(data: Dataset, tmp_path_factory) -> tuple[list[Tensor], list[dict]]:
    """What nine steps come to."""
    folder = tmp_path_factory.mktemp("whole")
    training = long_training(data)
    training.run(folder, "test", lambda *_: None)
    return outcome(training, folder)


@pytest.mark.parametrize("step", [1, 2, 3, 5, 9])
def test_run__told_to_stop_loses_no_step(data, tmp_path, whole, step: int) -> None:
    stopped_after(data, tmp_path, step, checkpoint_every_seconds=600.0)
    (file,) = (tmp_path / "checkpoints").iterdir()
    assert file.name.startswith(f"step{step:08d}-")
    again = long_training(data, checkpoint_every_seconds=600.0)
    sizes = seen_by(again.trainer.encoder)
    again.run(tmp_path, "test", lambda *_: None)
    assert len(sizes) == 6 * (9 - step)  # clean and two hidden views, for either player
    assert same(outcome(again, tmp_path), whole)


def test_run__a_broken_checkpoint_is_set_aside(data, tmp_path, whole) -> None:
    stopped_after(data, tmp_path, 5)
    _first, second = sorted((tmp_path / "checkpoints").iterdir())
    flipped = bytearray(second.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    second.write_bytes(flipped)
    told = []
    again = long_training(data)
    sizes = seen_by(again.trainer.encoder)
    again.run(tmp_path, "test", lambda text, *_: told.append(text))
    assert f"is broken and was set aside as {second.with_suffix('.broken')}" in told[0]
    assert len(sizes) == 6 * (9 - 4)
    assert same(outcome(again, tmp_path), whole)

    for file in (tmp_path / "checkpoints").glob("*.pt"):
        os.truncate(file, 100)
    again = long_training(data)
    again.run(tmp_path, "test", lambda text, *_: told.append(text))
    assert len([text for text in told if "is broken" in text]) == 3
    assert same(outcome(again, tmp_path), whole)  # from the start


def test_run__what_is_not_finite_is_never_saved(data: Dataset, tmp_path) -> None:
    training = long_training(data, log_every_steps=100)
    training.trainer.encoder_optimiser.register_step_post_hook(
        at_step(2, lambda: training.trainer.encoder.conv1.weight.data.fill_(torch.nan))
    )
    with pytest.raises(NonFiniteLossError, match=r"step 1: .* is nan"):
        training.run(tmp_path, "test", lambda *_: None)
    (file,) = (tmp_path / "checkpoints").iterdir()
    content = torch.load(file, weights_only=True)
    assert content["step"] == 1
    assert all(v.isfinite().all() for v in content["state"]["encoder"].values())


def test_run__writes_nothing_once_it_may_not(data: Dataset, tmp_path) -> None:
    training = long_training(data)
    written = []

    def check() -> None:
        if training.trainer.encoder_optimiser.state:  # a step has been made
            written.extend(path for path in tmp_path.rglob("*") if path.is_file())
            raise RuntimeError("the folder is gone")

    with pytest.raises(RuntimeError, match="the folder is gone"):
        training.run(tmp_path, "test", lambda *_: None, check)
    assert written == [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not (tmp_path / "checkpoints").exists()
