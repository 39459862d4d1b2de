"""Superpixels against slow oracles and scikit-image, and the clusters of their colours."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch._subclasses import FakeTensorMode

from benchmark.errors import UserError
from methods.colour_clusters import in_colour_space, kmeans
from methods.superpixels import ColourClusters, grid_shape, segment_means, slic

BENCH = Path(__file__).parents[1] / "bench/superpixels.py"
STREET = Path(__file__).parents[3] / "shared/data/camvid-voc.tar.xz"
THREE_COLOURS = torch.tensor([[0.9, 0.2, 0.1], [0.1, 0.7, 0.3], [0.2, 0.2, 0.8]])


@pytest.fixture(scope="module")
def photos() -> Tensor:
    """Sixteen 32-pixel crops of two photographs."""
    crops = []
    for photo in load_sample_images().images:
        for i in range(8):
            y, x = 40 * i, 70 * i
            crops.append(torch.from_numpy(photo[y : y + 96 : 3, x : x + 96 : 3].copy()))
    return torch.stack(crops).permute(0, 3, 1, 2).float() / 255


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def slic_in_loops(
    image: Tensor, rows: int, columns: int, compactness: float, rounds: int
) -> list[list[int]]:
    """Algorithm 1 of the SLIC paper for one image, pixel by pixel, in double precision."""
    h, w = image.shape[1:]
    step = math.sqrt(h * w / (rows * columns))
    rgb = image.double().permute(1, 2, 0).tolist()
    labels = [[y * rows // h * columns + x * columns // w for x in range(w)] for y in range(h)]
    centres: list[list[float]] = [[0.0] * 5 for _ in range(rows * columns)]
    for _ in range(rounds):
        for k in range(rows * columns):
            own = [[*rgb[y][x], y, x] for y in range(h) for x in range(w) if labels[y][x] == k]
            if own:
                centres[k] = [sum(column) / len(own) for column in zip(*own, strict=True)]
        closest = [[math.inf] * w for _ in range(h)]
        for k, (*colour, cy, cx) in enumerate(centres):
            for y in range(h):
                for x in range(w):
                    if abs(y - cy) > step or abs(x - cx) > step:
                        continue
                    d_c = math.dist(rgb[y][x], colour)
                    d_s = math.dist((y, x), (cy, cx))
                    distance = d_c**2 + (d_s / step) ** 2 * compactness**2
                    if distance < closest[y][x]:
                        closest[y][x] = distance
                        labels[y][x] = k
    return labels


@pytest.mark.parametrize("compactness", [0.02, 0.1, 1.0])
@pytest.mark.parametrize(
    ("height", "width", "segments", "rows", "columns"), [(16, 16, 16, 4, 4), (13, 18, 6, 2, 3)]
)
def test_slic__is_the_papers_algorithm(
    height: int, width: int, segments: int, rows: int, columns: int, compactness: float
) -> None:
    images = noise(3, 3, height, width)
    labels = slic(images, segments, compactness, iterations=4, connected=False)
    for image, got in zip(images, labels, strict=True):
        assert got.tolist() == slic_in_loops(image, rows, columns, compactness, 4)


def test_slic__follows_an_edge_that_is_off_the_grid() -> None:
    image = torch.zeros(1, 3, 32, 32)
    image[..., 14:] = 0.6
    labels = slic(image, 16, compactness=0.1, iterations=5)
    left, right = labels[..., :14].unique(), labels[..., 14:].unique()
    assert not set(left.tolist()) & set(right.tolist())


@pytest.mark.parametrize("iterations", [0, 5])
@pytest.mark.parametrize("connected", [True, False])
def test_slic__a_flat_image_keeps_the_grid(connected: bool, iterations: int) -> None:
    labels = slic(torch.full((1, 3, 32, 32), 0.4), 64, iterations=iterations, connected=connected)
    cells = (torch.arange(32)[:, None] // 4) * 8 + torch.arange(32) // 4
    assert torch.equal(labels[0], cells)


def test_slic__no_iterations_are_the_grid() -> None:
    flat = slic(torch.full((1, 3, 13, 18), 0.4), 6)
    assert torch.equal(slic(noise(1, 3, 13, 18), 6, iterations=0), flat)


def test_slic__in_cielab_is_slic_of_cielab(photos: Tensor) -> None:
    converted = in_colour_space(photos, "lab")
    labels = slic(photos, 64, 10.0, colour="lab")
    assert torch.equal(labels, slic(converted, 64, 10.0))
    assert not torch.equal(labels, slic(photos, 64, 0.1))


def test_in_colour_space__agrees_with_scikit_image() -> None:
    colour = pytest.importorskip("skimage.color")
    dark_and_light = torch.cat([noise(2, 3, 8, 9), noise(2, 3, 8, 9) / 50])
    ours = in_colour_space(dark_and_light, "lab").permute(0, 2, 3, 1)
    theirs = colour.rgb2lab(dark_and_light.permute(0, 2, 3, 1).numpy())
    torch.testing.assert_close(ours, torch.from_numpy(theirs), atol=1e-3, rtol=0)


@pytest.mark.parametrize("segments", [16, 50, 64, 100])
def test_slic__has_about_the_segments_asked_for(photos: Tensor, segments: int) -> None:
    rows, columns = grid_shape(32, 32, segments)
    assert rows * columns == pytest.approx(segments, rel=0.1)
    for labels in slic(photos, segments):
        assert 0.9 * rows * columns <= len(labels.unique()) <= rows * columns


@pytest.mark.parametrize(("connected", "share"), [(False, 0.6), (True, 0.8)])
def test_slic__explains_more_variance_than_the_grid(
    photos: Tensor, connected: bool, share: float
) -> None:
    labels = slic(photos, 64, connected=connected)
    cells = slic(photos, 64, iterations=0)
    assert unexplained(photos, labels) < share * unexplained(photos, cells)


def unexplained(pixels: Tensor, labels: Tensor) -> float:
    mean_rgb, _ = segment_means(pixels, labels, 64)
    flat = labels.flatten(1)[..., None].expand(-1, -1, 3)
    return (pixels.flatten(2).transpose(1, 2) - mean_rgb.gather(1, flat)).square().mean().item()


def test_slic__resembles_scikit_image(photos: Tensor) -> None:
    segmentation = pytest.importorskip("skimage.segmentation")
    # scikit-image stretches each image to [0, 1] and searches windows twice as wide, which at a
    # high compactness makes no difference.
    low, high = photos.amin((1, 2, 3), keepdim=True), photos.amax((1, 2, 3), keepdim=True)
    images = (photos - low) / (high - low)
    settings = {"n_segments": 64, "compactness": 1.0, "max_num_iter": 10, "start_label": 0}
    settings |= {"convert2lab": False, "enforce_connectivity": False}
    theirs = [segmentation.slic(image.permute(1, 2, 0).numpy(), **settings) for image in images]
    reference = unexplained(images, torch.stack([torch.from_numpy(x).long() for x in theirs]))
    ours = slic(images, 64, compactness=1.0, iterations=10, connected=False)
    assert unexplained(images, ours) == pytest.approx(reference, rel=0.1)


def test_segment_means__match_a_loop() -> None:
    pixels, labels = noise(2, 3, 6, 7), slic(noise(2, 3, 6, 7, seed=1), 6, iterations=2)
    mean_rgb, sizes = segment_means(pixels, labels, 9)
    for b in range(2):
        for k in range(9):
            own = pixels[b][:, labels[b] == k]
            assert sizes[b, k] == pytest.approx(own.shape[1] / 42)
            expected = own.mean(1) if own.numel() else torch.zeros(3)
            torch.testing.assert_close(mean_rgb[b, k], expected)


def test_kmeans__recovers_separated_clusters() -> None:
    assignment = torch.tensor([0, 1, 2, 0, 1, 0, 2, 1])
    colours = THREE_COLOURS[assignment] + 0.02 * noise(8, 3)
    sizes = torch.tensor([0.3, 0.05, 0.02, 0.2, 0.1, 0.15, 0.08, 0.1])
    shares, cluster = kmeans(colours[None], sizes[None], 3)
    torch.testing.assert_close(shares, torch.tensor([[0.65, 0.25, 0.10]]))
    assert torch.equal(cluster[0], assignment)


def test_kmeans__is_lloyds_algorithm_at_rest() -> None:
    points, sizes = noise(1, 20, 3), noise(1, 20, seed=2)
    shares, cluster = kmeans(points, sizes, 2, iterations=50)
    # At a fixed point every split by another plane through the same two means agrees; so the
    # best of all two-colour splits that are their own k-means step must contain ours.
    fixed = set()
    for i in range(20):
        for j in range(i):
            centres = points[0, [i, j]]
            for _ in range(50):
                near = torch.cdist(points[0], centres).argmin(1)
                weights = torch.stack([sizes[0] * (near == k) for k in range(2)])
                centres = weights @ points[0] / weights.sum(1, keepdim=True)
            fixed.add(round((weights.sum(1).max() / sizes.sum()).item(), 5))
    assert round(shares[0, 0].item(), 5) in fixed
    for k in range(2):
        assert shares[0, k] == pytest.approx(float(sizes[cluster == k].sum() / sizes.sum()))


def test_kmeans__fewer_colours_than_clusters_leaves_zeros() -> None:
    shares, cluster = kmeans(torch.full((1, 5, 3), 0.5), torch.full((1, 5), 0.2), 3)
    torch.testing.assert_close(shares, torch.tensor([[1.0, 0.0, 0.0]]))
    assert torch.equal(cluster, torch.zeros(1, 5, dtype=torch.long))


@pytest.mark.parametrize("size", [32, 48])
def test_colour_clusters__shares_find_the_areas_of_three_colours(size: int) -> None:
    image = torch.empty(1, 3, size, size)
    image[0] = THREE_COLOURS[0][:, None, None]
    half, cut = size // 2 + 1, round(0.6 * size)
    image[0, :, :cut, half:] = THREE_COLOURS[1][:, None, None]
    image[0, :, cut:, half:] = THREE_COLOURS[2][:, None, None]
    areas = [half / size, (1 - half / size) * cut / size, (1 - half / size) * (1 - cut / size)]
    shares = ColourClusters(num_segments=50).shares(image, 3)
    assert shares[0].tolist() == pytest.approx(areas, abs=0.02)
    assert areas == pytest.approx([0.5, 0.3, 0.2], abs=0.035)


def test_colour_clusters__shares_that_differ_between_images(photos: Tensor) -> None:
    shares = ColourClusters().shares(photos, 5)
    assert shares.shape == (16, 5)
    torch.testing.assert_close(shares.sum(1), torch.ones(16))
    assert (shares >= 0).all()
    assert (shares.diff(dim=1) <= 0).all()
    assert len(shares.unique(dim=0)) == 16


def test_colour_clusters__masks_share_the_image_out_by_the_shares(photos: Tensor) -> None:
    for settings in SETTINGS:
        masks = ColourClusters(**settings).masks(photos, 5)
        assert masks.shape == (16, 5, 32, 32)
        assert torch.equal(masks.sum(1), torch.ones(16, 32, 32))
        assert set(masks.unique().tolist()) == {0.0, 1.0}
        budgets = ColourClusters(**settings).shares(photos, 5)
        torch.testing.assert_close(masks.mean((2, 3)), budgets, atol=1e-6, rtol=0)


def test_colour_clusters__masks_are_unions_of_superpixels_of_like_colour(photos: Tensor) -> None:
    masks = ColourClusters(num_segments=50, kmeans_iterations=30).masks(photos, 4)
    labels = slic(photos, 50)
    means, sizes = segment_means(photos, labels, 49)
    for image, segments, colours, size in zip(masks, labels, means, sizes, strict=True):
        found = image.argmax(0)
        used = segments.unique()
        cluster = torch.stack([found[segments == k].median() for k in used])
        assert torch.equal(cluster[torch.searchsorted(used, segments)], found)
        colours, size = colours[used], size[used]
        mass = torch.stack([(size * (cluster == k)).sum() for k in range(4)])
        weighted = [(colours * (size * (cluster == k))[:, None]).sum(0) for k in range(4)]
        centres = torch.stack(weighted) / mass[:, None]
        # At rest, every superpixel is in the cluster whose mean colour is closest.
        assert torch.equal(torch.cdist(colours, centres).argmin(1), cluster)


def test_colour_clusters__masks_find_three_colours() -> None:
    image = THREE_COLOURS[0][None, :, None, None].repeat(1, 1, 32, 32)
    image[0, :, :12] = THREE_COLOURS[1][:, None, None]
    image[0, :, :12, 20:] = THREE_COLOURS[2][:, None, None]
    masks = ColourClusters().masks(image, 4)
    for mask, colour in zip(masks[0], THREE_COLOURS, strict=False):
        assert (mask - (image[0] == colour[:, None, None]).all(0).float()).abs().mean() < 0.02
    assert not masks[0, 3].any()


SETTINGS = (
    {},
    {"connected": False},
    {"colour": "lab", "compactness": 10.0},
    {"num_segments": 100, "slic_iterations": 2, "kmeans_iterations": 3},
    {"slic_iterations": 0},
)


@pytest.mark.parametrize("settings", SETTINGS)
def test_colour_clusters__masks_do_not_depend_on_batch_threads_or_autocast(
    photos: Tensor, settings: dict
) -> None:
    together = ColourClusters(**settings).masks(photos, 5)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ColourClusters(**settings).masks(photos[order], 5), together[order])
    assert torch.equal(ColourClusters(**settings).masks(photos[3:4], 5), together[3:4])
    torch.set_num_threads(2)
    assert torch.equal(ColourClusters(**settings).masks(photos, 5), together)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(ColourClusters(**settings).masks(photos, 5), together)


def test_colour_clusters__shares_do_not_depend_on_the_batch(photos: Tensor) -> None:
    together = ColourClusters().shares(photos, 5)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ColourClusters().shares(photos[order], 5), together[order])
    assert torch.equal(ColourClusters().shares(photos[3:4], 5), together[3:4])


def test_slic__does_not_depend_on_how_many_images_a_cpu_takes_at_once(
    photos: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = slic(photos, 64)
    for pixels in (1, 3 * 32 * 32 + 7):
        monkeypatch.setattr("methods.superpixels._CACHED_PIXELS", pixels)
        assert torch.equal(slic(photos, 64), together)


@pytest.mark.parametrize("settings", SETTINGS)
def test_colour_clusters__never_read_a_value_back(settings: dict) -> None:
    # Fake tensors have no values: reading one, for which a GPU would have to be waited for, raises.
    with FakeTensorMode():
        pixels = torch.rand(4, 3, 32, 32)
        shares = ColourClusters(**settings).shares(pixels, 5)
        assert shares.shape == (4, 5)
        assert ColourClusters(**settings).masks(pixels, 5).shape == (4, 5, 32, 32)
        with pytest.raises(RuntimeError):
            shares.sum().item()


@pytest.mark.parametrize("cluster", [ColourClusters.shares, ColourClusters.masks])
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("num_clusters", 0),
        ("num_segments", 0),
        ("num_segments", 1025),
        ("compactness", 0.0),
        ("slic_iterations", -1),
        ("kmeans_iterations", 0),
    ],
)
def test_colour_clusters__name_the_setting_that_is_wrong(
    cluster: Callable, setting: str, value: float
) -> None:
    settings = {"num_clusters": 3, setting: value}
    num_clusters = settings.pop("num_clusters")
    with pytest.raises(UserError, match=f"{setting}={value}"):
        cluster(ColourClusters(**settings), noise(1, 3, 32, 32), num_clusters)


# Beside scikit-image ------------------------------------------------------------------------------


@pytest.mark.parametrize("segments", [64, 150])
@pytest.mark.parametrize(
    "data",
    [
        "scenes",
        pytest.param(
            "street_scenes",
            marks=pytest.mark.skipif(
                not STREET.exists(), reason=f"street scenes are missing: {STREET}"
            ),
        ),
    ],
)
def test_slic__follows_objects_as_well_as_scikit_image(data: str, segments: int) -> None:
    pytest.importorskip("skimage")
    spec = importlib.util.spec_from_file_location("bench_superpixels", BENCH)
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    pixels, truth = getattr(bench, data)(16)
    count, accuracy, recall = bench.quality(slic(pixels, segments).numpy(), truth)
    rows, columns = grid_shape(96, 96, segments)
    assert 0.97 * rows * columns <= count <= rows * columns
    _, theirs = bench.matched_skimage(bench.channels_last(pixels), count)
    _, reference_accuracy, reference_recall = bench.quality(theirs, truth)
    assert accuracy > reference_accuracy - 2
    assert recall > reference_recall - 2
