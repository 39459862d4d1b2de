from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.encoders import ResNet
from tasks.fcn import FCN, HEADS, FCNHead, upsample

DIMS = (4, 5, 6, 7)


def head_on(name: str, num_classes: int = 3) -> FCNHead:
    return FCNHead(DIMS[-HEADS[name] :], num_classes)


def stages(batch: int = 2) -> list[Tensor]:
    # Odd sides too: a stage need not be half of the one before.
    sides = ((12, 9), (7, 5), (4, 3), (2, 2))
    draws = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, d, *side, generator=draws) for d, side in zip(DIMS, sides, strict=True)
    ]


def slow_bilinear(row: list[float], size: int) -> list[float]:
    """A row resized by its definition: pixels are areas, and borders extend outwards."""
    found = []
    for i in range(size):
        place = (i + 0.5) * len(row) / size - 0.5
        left = int(max(place, 0))
        share = min(max(place - left, 0), 1)
        right = min(left + 1, len(row) - 1)
        found.append((1 - share) * row[left] + share * row[right])
    return found


@pytest.mark.parametrize(("size", "target"), [(3, 7), (4, 4), (5, 12), (6, 4), (1, 3)])
def test_upsample__equals_the_definition(size: int, target: int) -> None:
    row = torch.rand(size, generator=torch.Generator().manual_seed(0))
    expected = torch.tensor(slow_bilinear(row.tolist(), target))
    across = upsample(row.expand(1, 1, 2, -1), (2, target))
    down = upsample(row[:, None].expand(1, 1, -1, 2), (target, 2))
    torch.testing.assert_close(across, expected.expand(1, 1, 2, -1))
    torch.testing.assert_close(down, expected[:, None].expand(1, 1, -1, 2))


def test_upsample__equals_torchs_with_its_gradient() -> None:
    x = torch.rand(2, 3, 5, 4, requires_grad=True)
    weights = torch.rand(2, 3, 11, 9)
    ours, theirs = upsample(x, (11, 9)), F.interpolate(x, (11, 9), mode="bilinear")
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(
        torch.autograd.grad((ours * weights).sum(), x),
        torch.autograd.grad((theirs * weights).sum(), x),
    )


@pytest.mark.parametrize(("name", "read"), [("fcn32", 1), ("fcn16", 2), ("fcn8", 3)])
def test_head__reads_its_stages_and_no_other(name: str, read: int) -> None:
    head, maps = head_on(name), stages()
    before = head(maps, (23, 17))
    assert before.shape == (2, 3, 23, 17)
    for k, features in enumerate(maps):
        changed = [*maps[:k], features + 1, *maps[k + 1 :]]
        assert torch.equal(head(changed, (23, 17)), before) == (k < len(DIMS) - read), k


def test_head__fcn32_is_one_layer_upsampled_once() -> None:
    head, maps = head_on("fcn32"), stages()
    scores = nn.functional.conv2d(maps[-1], head.scores[0].weight, head.scores[0].bias)  # type: ignore[arg-type]
    torch.testing.assert_close(
        head(maps, (23, 17)), F.interpolate(scores, (23, 17), mode="bilinear")
    )


def test_head__fcn8_adds_from_coarse_to_fine() -> None:
    head, maps = head_on("fcn8"), stages()
    fine, middle, coarse = (s(m) for s, m in zip(head.scores, maps[1:], strict=True))
    total = middle + F.interpolate(coarse, middle.shape[2:], mode="bilinear")
    total = fine + F.interpolate(total, fine.shape[2:], mode="bilinear")
    torch.testing.assert_close(
        head(maps, (23, 17)), F.interpolate(total, (23, 17), mode="bilinear")
    )


def test_head__sums_are_in_full_precision_under_autocast() -> None:
    head, maps = head_on("fcn8"), stages()
    with torch.autocast("cpu", torch.bfloat16):
        scores = head(maps, (23, 17))
        parts = [s(m).float() for s, m in zip(head.scores, maps[1:], strict=True)]
    assert scores.dtype == torch.float32
    total = parts[2]
    for finer in (parts[1], parts[0]):
        total = finer + F.interpolate(total, finer.shape[2:], mode="bilinear")
    torch.testing.assert_close(scores, F.interpolate(total, (23, 17), mode="bilinear"))


@pytest.mark.parametrize("depth", [18, 50])
def test_fcn__on_rectangular_images_of_a_resnet(depth: int) -> None:
    encoder = ResNet(depth, width=8, stem="imagenet").eval()
    net = FCN(encoder, FCNHead(encoder.stage_dims[-3:], 21))
    assert net(torch.rand(1, 3, 60, 80)).shape == (1, 21, 60, 80)
