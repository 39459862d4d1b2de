from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.dataset import Dataset, Split
from benchmark.errors import UserError
from benchmark.result_file import main_metric
from benchmark.streams import Streams
from tasks import robustness
from tasks.corruptions import CORRUPTIONS, strengths
from tasks.linear import LinearProbe
from tasks.robustness import Robustness

CPU = torch.device("cpu")
SIZE = 16
MakeData = Callable[..., Dataset]
MakeNet = Callable[..., nn.Module]
KINDS = ("occlusion", "shuffle", *CORRUPTIONS)


def task(**settings: Any) -> Robustness:
    probe = LinearProbe(epochs=20, lr=0.1, schedule="constant", standardise=True, batch_size=64)
    return Robustness(probe=probe, **settings)


def run(robust: Robustness, encoder: nn.Module, data: Dataset, eval_seed: int = 0) -> Any:
    return robust.run(encoder, data, eval_seed=eval_seed, device=CPU)


def test_run__curves_and_their_means(coloured: MakeData, flat: MakeNet) -> None:
    result = run(task(), flat(), coloured(contrast=10))
    curves, clean = result.details["accuracy"], result.metrics["clean_accuracy"]
    assert list(result.metrics) == [
        "mean_accuracy", "clean_accuracy", *(f"{kind}_accuracy" for kind in KINDS),
    ]  # fmt: skip
    assert list(curves) == list(KINDS)
    assert result.details["strengths"]["occlusion"] == [0.1, 0.3, 0.5, 0.7, 0.9]
    assert result.details["strengths"]["contrast"] == strengths("contrast", SIZE)
    means = []
    for kind, curve in curves.items():
        assert curve[0] == clean
        assert len(curve) == 1 + len(result.details["strengths"][kind])
        means.append(sum(curve[1:]) / len(curve[1:]))
        assert result.metrics[f"{kind}_accuracy"] == pytest.approx(means[-1])
    assert result.metrics["mean_accuracy"] == pytest.approx(sum(means) / len(means))
    main = result.metrics["mean_accuracy"]
    assert main_metric(result.per_image) == pytest.approx(main, rel=1e-12)
    assert clean > result.metrics["mean_accuracy"] + 3


def test_run__clean_accuracy_is_that_of_the_linear_probe(
    coloured: MakeData, small_resnet: MakeNet
) -> None:
    data, robust = coloured(contrast=20), task(corruptions=[], shuffle=[])
    result = run(robust, small_resnet(), data, eval_seed=3)
    expected = robust.probe.run(small_resnet(), data, eval_seed=3, device=CPU)
    assert result.metrics["clean_accuracy"] == expected.metrics["accuracy"]
    assert list(result.metrics) == ["mean_accuracy", "clean_accuracy", "occlusion_accuracy"]


def test_run__a_head_that_sees_nothing_is_at_chance(coloured: MakeData, flat: MakeNet) -> None:
    robust = task(occlusion=[0.5, 1.0], corruptions=[], shuffle=[])
    data = coloured(contrast=30)
    result = run(robust, flat(), data)
    clean, half, nothing = result.details["accuracy"]["occlusion"]
    assert clean > 95
    assert half >= nothing
    assert nothing == pytest.approx(100 / 3)  # all images alike, so all in one class
    assert data.test is not None
    assert data.test.labels is not None
    score = result.per_image["score"]
    assert set(score) <= {0.0, 0.5, 1.0}
    assert len(set(data.test.labels[score == 1.0].tolist())) == 1  # that one


def test_run__pixels_whose_place_does_not_matter_can_be_shuffled(coloured: MakeData) -> None:
    class MeanColour(nn.Module):
        feature_dim = 3

        def forward(self, x: Tensor) -> Tensor:
            return x.mean((2, 3))

    robust = task(corruptions=[], occlusion=[])
    curve = run(robust, MeanColour(), coloured(contrast=30)).details["accuracy"]["shuffle"]
    assert curve == [curve[0]] * 4


class Seen(nn.Module):
    """The pixels; keeps what it is shown."""

    feature_dim = 3 * SIZE**2
    shown: list[Tensor]

    def forward(self, x: Tensor) -> Tensor:
        self.shown.append(x.clone())
        return x.flatten(1)


def images_seen(robust: Robustness, data: Dataset, eval_seed: int = 0) -> list[Tensor]:
    """The test images, once clean and once for each strength."""
    Seen.shown = []
    run(robust, Seen(), data, eval_seed)
    count = robust.count or len(data.test or ())
    shown = torch.cat(Seen.shown)[len(data.train) :]
    return list(shown.split(count))


def test_run__every_encoder_sees_the_same_images_whatever_the_batches(
    coloured: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = coloured(60, 40)
    shown = images_seen(task(), data)
    assert len(shown) == 1 + 5 + 3 + 5 * 5
    again = images_seen(task(), data)
    assert all(torch.equal(a, b) for a, b in zip(shown, again, strict=True))
    monkeypatch.setattr(robustness, "_PIXELS", 7 * SIZE**2)
    for a, b in zip(shown, images_seen(task(), data), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
    monkeypatch.undo()
    drawn = 1 + 5 + 3 + 5  # occlusion, shuffle and noise are drawn, the rest is not
    others = images_seen(task(), data, eval_seed=1)
    differs = [not torch.equal(a, b) for a, b in zip(shown, others, strict=True)]
    assert differs == [False] + [True] * (drawn - 1) + [False] * (len(shown) - drawn)


def test_run__hidden_cells_have_the_mean_colour_of_the_data(coloured: MakeData) -> None:
    robust = task(occlusion=[0.5], corruptions=[], shuffle=[])
    _, hidden = images_seen(robust, coloured())
    nothing = (hidden == 0).all(1).float().mean((1, 2))
    assert torch.equal(nothing, torch.full((60,), 0.5))


def test_run__disturbs_what_the_encoder_would_see(
    coloured: MakeData, dataset: Callable[..., Dataset], small_resnet: MakeNet
) -> None:
    data = coloured()
    test = data.test
    assert test is not None
    wide = dataset(data.train, test, view_size=8, view="centre")
    sizes = []
    encoder = small_resnet()
    encoder.register_forward_hook(lambda net, args, _: sizes.append(args[0].shape[-1]))
    run(task(shuffle=[2, 4]), encoder, wide)
    assert set(sizes) == {8}


def test_run__counted_images_are_always_the_same(coloured: MakeData, flat: MakeNet) -> None:
    robust, data = task(count=20, shuffle=[]), coloured(contrast=30)
    results = [run(robust, flat(), data, eval_seed=seed) for seed in (0, 0, 1)]
    assert results[0] == results[1] != results[2]
    assert results[0].per_image["score"].shape == (20,)
    for accuracy in results[0].details["accuracy"]["occlusion"]:
        assert accuracy / 5 == pytest.approx(round(accuracy / 5))  # of 20 images
    clean = [images_seen(robust, data, seed)[0] for seed in (0, 1)]
    assert torch.equal(*clean)
    assert data.test is not None
    assert not torch.equal(clean[0], images_seen(task(), data)[0][:20])  # not the first ones
    assert run(task(count=500), flat(), data) == run(task(), flat(), data)


def test_run__test_labels_do_not_influence_the_probe(
    coloured: MakeData, flat: MakeNet, relabelled: Callable[[Dataset], Dataset]
) -> None:
    data, robust = coloured(contrast=30), task(corruptions=[], shuffle=[])
    first, second = (run(robust, flat(), d) for d in (data, relabelled(data)))
    # Labels turned over: what was right is wrong, unless an image keeps its class.
    assert first.metrics["clean_accuracy"] > 95
    assert second.metrics["clean_accuracy"] < 40


@pytest.mark.parametrize("after", [1, 4])
def test_run__encoder_must_not_change(
    after: int, coloured: MakeData, drifting: Callable[[int], nn.Module]
) -> None:
    with pytest.raises(RuntimeError, match="the encoder has changed"):
        run(task(shuffle=[], corruptions=[]), drifting(after), coloured())


def test_check__what_cannot_run(
    coloured: MakeData, dataset: Callable[..., Dataset], flat: MakeNet
) -> None:
    task().check(flat(), coloured())
    with pytest.raises(UserError, match="shuffle=3 does not divide the 16 pixels of 'toy'"):
        task(shuffle=[2, 3]).check(flat(), coloured())
    with pytest.raises(UserError, match="occlusion_cells=17 exceeds the 16 pixels of 'toy'"):
        task(occlusion_cells=17).check(flat(), coloured())
    with pytest.raises(UserError, match="no labels in its train split"):
        task().check(flat(), dataset(Split(coloured().train.images), coloured().test))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"occlusion": [0.5, 0.3]}, r"occlusion=\[0.5, 0.3\] must be growing shares"),
        ({"occlusion": [0.5, 1.3]}, r"occlusion=\[0.5, 1.3\] must be growing shares"),
        ({"occlusion_cells": 0}, "occlusion_cells=0 must be at least 1"),
        ({"shuffle": [4, 2]}, r"shuffle=\[4, 2\] must be growing whole numbers above 1"),
        ({"shuffle": [1, 2]}, r"shuffle=\[1, 2\] must be growing whole numbers above 1"),
        ({"corruptions": ["snow"]}, "corruptions=snow is not one of gaussian_noise, gaussian_blur"),
        ({"occlusion": [0.5, 0.5]}, r"occlusion=\[0.5, 0.5\] must be a number or a list of diff"),
        ({"shuffle": [2, 2]}, r"shuffle=\[2, 2\] must be a whole number or a list of different"),
        ({"corruptions": "snow"}, "corruptions=snow is not one of gaussian_noise, gaussian_blur"),
        ({"corruptions": ["contrast"] * 2}, r"corruptions=\['contrast', 'contrast'\] must be diff"),
        ({"count": 0}, "count=0 must be at least 1"),
        (
            {"occlusion": [], "shuffle": [], "corruptions": []},
            "occlusion, shuffle and corruptions are all empty",
        ),
    ],
)
def test_robustness__refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        task(**settings)


def test_robustness__one_value_needs_no_list() -> None:
    one = {"occlusion": 0.5, "shuffle": 4, "corruptions": "contrast"}
    assert task(**one).protocol == task(**{k: [v] for k, v in one.items()}).protocol
    assert "0.5 of 8x8 cells" in task(**one).protocol
    assert "4x4 patches shuffled; contrast at severities" in task(**one).protocol


def test_protocol__states_every_number() -> None:
    protocol = task(count=2000).protocol
    for part in (
        "Linear classifier on frozen features",
        "2000 test images drawn once",
        "0.1, 0.3, 0.5, 0.7, 0.9 of 8x8 cells hidden under the mean colour",
        "2x2, 4x4, 8x8 patches shuffled",
        "gaussian noise, gaussian blur, contrast, brightness, pixelate at severities 1 to 5",
    ):
        assert part in protocol
    assert protocol.endswith("mean over strengths, then over kinds of disturbance.")
    assert protocol.count(". ") == 0  # one sentence


def test_streams__are_apart_from_those_of_training() -> None:
    index = torch.arange(4)
    own = Streams(0, 0, index, "robustness/").uniform("occlusion", 8)
    assert not torch.equal(own, Streams(0, 0, index).uniform("occlusion", 8))
