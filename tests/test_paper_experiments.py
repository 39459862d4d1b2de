"""The paper's experiments, planned to their last run on packs of the published sizes.

The packs are sparse files of zeros: planning reads no pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmark.config import compose
from benchmark.dataset import Dataset
from benchmark.instantiate import instantiate
from benchmark.packs.arrays import ArrayFile
from benchmark.packs.manifest import Manifest, Recipe, Stored
from benchmark.plan import Planned, Planner
from benchmark.run import plan

# Option, arrays beside the images, and images of each split.
PACKS = {
    "imagenet100s": ("labels", {"train": 126_689, "test": 5_000}),
    "stl10": ("labels", {"train": 5_000, "unlabeled": 100_000, "test": 8_000}),
    "cifar10": ("labels", {"train": 50_000, "test": 10_000}),
    "cifar100": ("labels", {"train": 50_000, "test": 10_000}),
    "inat2021": ("labels", {"train": 2_686_843, "test": 100_000}),
    "voc2012": ("pixel_labels", {"train": 1_464, "val": 1_449}),
}
DIGEST = "0" * 64


def make_pack(data_dir: Path, option: str, truth: str, counts: dict[str, int]) -> None:
    """A pack as `benchmark/prepare.py` would leave it, without content."""
    node = compose([f"data={option}", f"data_dir={data_dir}"]).data
    source = instantiate(dict(node.source))
    recipe = Recipe(node.get("pack") or node.name, data_dir, source, node.stored_size, node.fit)
    if recipe.folder.exists():
        return
    recipe.folder.mkdir(parents=True)
    total, side = sum(counts.values()), node.stored_size
    arrays: dict[str, tuple[str, tuple[int, ...]]] = {"images": ("|u1", (total, 3, side, side))}
    whole = truth == "labels"
    arrays[truth] = ("<i8", (total,)) if whole else ("|u1", (total, side, side))
    for name, (dtype, shape) in arrays.items():
        ArrayFile.create(recipe.folder / f"{name}.npy", dtype, shape)
    splits, start = {}, 0
    for name, count in counts.items():
        unlabelled = {truth: count if name == "unlabeled" else 0} if whole else {}
        digests = dict.fromkeys(arrays, DIGEST)
        splits[name] = Stored(
            start, start + count, digests, unlabelled, [[1] * 256 for _ in range(3)], []
        )
        start += count
    Manifest(
        name=recipe.name,
        **recipe.settings,
        pillow="0",
        arrays=arrays,
        splits=splits,
        class_names={node.labels or "class": ("a", "b")} if whole else {},
        pixel_class_names=() if whole else tuple("abcdefghijklmnopqrstu"),
        checksums={},
    ).write(recipe.folder)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packs")
    for option, (truth, counts) in PACKS.items():
        make_pack(folder, option, truth, counts)
    return folder


@pytest.fixture(scope="module")
def planner() -> Planner:
    return Planner()


def planned(planner: Planner, data_dir: Path, *overrides: str) -> Sequence[Planned]:
    plans, notes = plan(planner, [*overrides, f"data_dir={data_dir}"], multirun=True)
    assert not [note for note in notes if note.startswith("not evaluated")]
    return plans


@pytest.mark.slow
def test_paper__both_tables_on_the_same_encoders(planner: Planner, data_dir: Path) -> None:
    one = planned(planner, data_dir, "experiment=paper_table1")
    two = planned(planner, data_dir, "experiment=paper_table2")
    assert (len(one), len(two)) == (36, 18)
    for plans, tasks in ((one, 2), (two, 7)):
        for run in (p.run for p in plans):
            assert len({task.name for task in run.tasks}) == tasks
            assert len(run.tasks) == 3 * tasks  # evaluation seeds
    assert {p.run.folder for p in two} < {p.run.folder for p in one}
    data: Dataset = planner.data(two[0].cfg)
    assert (len(data.train), data.image_size) == (126_689, 96)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("experiment", "configurations"),
    [("ablation_n", 6), ("ablation_budget", 4), ("ablation_lars", 6)],
)
def test_paper__ablations(
    planner: Planner, data_dir: Path, experiment: str, configurations: int
) -> None:
    plans = planned(planner, data_dir, f"experiment={experiment}", "seed=0")
    assert len({p.run.hash8 for p in plans}) == configurations
    assert len({p.run.varied for p in plans}) > 1
    assert {p.cfg.tables_dir for p in plans} == {f"runs/paper/tables/{experiment}"}
