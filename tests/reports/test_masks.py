"""The mask report from small made-up runs: table, pictures, labels, mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from benchmark.runs import Run, identity
from reports.figures.mask_curves import added_loss, series
from reports.masks import main
from reports.results.mask_runs import find, sheets

MakeMasks = Callable[..., Path]
SIDE, COUNT = 8, 6


def images(data: str) -> np.ndarray:
    return np.random.default_rng(len(data)).integers(0, 256, (COUNT, 3, SIDE, SIDE), np.uint8)


def objects() -> np.ndarray:
    """Two bars, which lie elsewhere in each image."""
    found = np.zeros((COUNT, SIDE, SIDE), np.uint8)
    for k, segments in enumerate(found):
        segments[:, k % 4] = 1
        segments[:, 4 + k % 3] = 2
    return found


def perfect() -> np.ndarray:
    return np.stack([255 * (objects() == k) for k in (1, 2)], axis=1).astype(np.uint8)


@pytest.fixture
def make_masks(make_run: Callable[..., Run]) -> MakeMasks:
    """Leave behind what a run does; returns its folder."""

    def make(
        method: str,
        seed: int = 0,
        *,
        masks: np.ndarray | None = None,
        segments: bool = True,
        config: dict[str, Any] | None = None,
        keys: dict[str, Any] | None = None,
        slot_loss: tuple[float, ...] = (3.0, 1.1),
        **changes: Any,
    ) -> Path:
        run = make_run(method, seed, {}, **changes)
        masks = perfect() if masks is None else masks
        (run.folder / "masks").mkdir(parents=True)
        content = {"run": identity(run), "seed": seed, "method": keys or {}, **(config or {})}
        (run.folder / "config.yaml").write_text(yaml.safe_dump(content))
        (run.folder / "pretraining.json").write_text(json.dumps({"commit": "c" * 40}))
        arrays = {"images": images(run.data), "masks": masks}
        arrays |= {"segments": objects()} if segments else {}
        np.savez_compressed(run.folder / "masks" / "test.npz", **arrays)
        shares = [0.3] * masks.shape[1]
        lines = [
            {"epoch": step // 20, "step": step, "slot_loss": slot_loss}
            | {"slot_area": shares, "slot_binary": shares}
            | ({"unmasked_loss": 1.0, "blank_loss": 5.0} if step % 2 else {})
            for step in range(9, 40, 5)
        ]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (run.folder / "metrics.jsonl").write_text(text)
        return run.folder

    return make


def report(tmp_path: Path, *folders: Path) -> Path:
    out = tmp_path / "out"
    assert main([*map(str, folders or [tmp_path / "runs"]), "--out", str(out)]) == 0
    return out


def rows(out: Path) -> list[list[str]]:
    text = (out / "quality.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def labels(folder: Path) -> list[str]:
    return [
        configuration.label.replace(" (demo)", "")
        for configuration in find([folder]).configurations
    ]


def test_masks__table_and_pictures(make_masks: MakeMasks, tmp_path: Path, capsys) -> None:
    constant = np.zeros((COUNT, 2, SIDE, SIDE), np.uint8)
    constant[:, 0, :, 1] = 255
    for seed in (0, 1):
        make_masks("sequential", seed, keys={"budget": 0.25})
        make_masks("adios_s", seed, masks=constant, slot_loss=(2.0,))
    out = report(tmp_path)
    assert sorted(path.name for path in out.iterdir()) == [
        "curves.pdf", "curves.png", "gallery.pdf", "gallery.png", "quality.csv", "quality.md",
    ]  # fmt: skip
    head, _, adios, sequential = rows(out)
    assert head == [
        "Method", "n", "ARI", "ARI-fg", "mSC", "mIoU", "Area", "Overlap", "Binary", "Empty slots",
    ]  # fmt: skip
    assert sequential[1] == "2"
    for cell in sequential[2:6]:
        assert cell.startswith("**100.0 ± 0.0** (")
    # Each slot hides a bar of 8 of 64 pixels; of the two losses only 3.0 is far above 1.0.
    assert sequential[6:] == ["12±0, 12±0", "0.0 ± 0.0", "100.0 ± 0.0", "1.0 ± 0.0 of 2"]
    assert "**" not in "".join(adios)
    assert adios[6:] == ["12±0, 0±0", "–", "100.0 ± 0.0", "–"]
    text = (out / "quality.md").read_text(encoding="utf-8")
    assert "(4 runs, seeds 0, 1, trained at commit cccccccccc)" in text
    assert str(out / "gallery.png") in capsys.readouterr().out


def test_masks__csv(make_masks: MakeMasks, tmp_path: Path) -> None:
    make_masks("sequential", 0)
    make_masks("sequential", 1, masks=np.roll(perfect(), 1, axis=0))
    table = pd.read_csv(report(tmp_path) / "quality.csv", dtype={"seeds": str})
    assert len(table) == 1
    line = table.iloc[0]
    assert (line["n"], line["seeds"], line["commits"]) == (2, "0 1", "c" * 40)
    assert (line["images"], line["slots"]) == (COUNT, 2)
    assert line["miou_mean"] > line["miou_other_image_mean"]
    assert line["miou_above"] == line["ari_above"] == 1  # not with another image's masks
    assert line["area_1_mean"] == pytest.approx(1 / 8)
    assert line["area_2_spread_std"] == 0


def test_masks__constant_masks_equal_their_mean(make_masks: MakeMasks, tmp_path: Path) -> None:
    make_masks("adios", masks=np.repeat(perfect()[:1], COUNT, axis=0))
    line = pd.read_csv(report(tmp_path) / "quality.csv").iloc[0]
    for score in ("ari", "ari_foreground", "mean_segcover", "miou"):
        assert line[f"{score}_mean_mask_mean"] == line[f"{score}_mean"]
        assert line[f"{score}_above"] == 0


def test_masks__no_objects(make_masks: MakeMasks, tmp_path: Path) -> None:
    make_masks("adios", segments=False)
    out = report(tmp_path)
    assert rows(out)[0] == ["Method", "n", "Area", "Overlap", "Binary", "Empty slots"]
    assert "no objects to score against" in (out / "quality.md").read_text()
    assert "ari_mean" not in pd.read_csv(out / "quality.csv")


def test_masks__two_data_sets(make_masks: MakeMasks, tmp_path: Path) -> None:
    make_masks("adios")
    make_masks("adios", data="folder", segments=False)
    out = report(tmp_path)
    names = [
        f"{kind}_{data}.png" for kind in ("curves", "gallery") for data in ("folder", "scenes")
    ]
    assert sorted(path.name for path in out.glob("*.png")) == names
    text = (out / "quality.md").read_text()
    folder, scenes = text.split("**Masks on scenes.**")
    assert "ARI-fg |" not in folder.split("\n- ")[0]
    assert "| ARI-fg" in scenes


def test_masks__empty_slots(make_masks: MakeMasks, tmp_path: Path) -> None:
    # The last loss is that of the unmasked pair, which is no slot.
    folder = make_masks("adios", slot_loss=(3.0, 3.0, 1.0), config={"unmasked_pair": True})
    assert rows(report(tmp_path))[2][-1] == "0.0 of 2"
    (folder / "metrics.jsonl").unlink()
    assert rows(report(tmp_path))[2][-1] == "–"


def test_gallery__shows_masks_and_what_remains(make_masks: MakeMasks, tmp_path: Path) -> None:
    black, white = (np.full((COUNT, 2, SIDE, SIDE), v, np.uint8) for v in (0, 255))
    pictures = []
    for name, masks in (("adios", black), ("random", white)):
        folder = make_masks(name, masks=masks)
        report(tmp_path, folder)
        with Image.open(tmp_path / "out" / "gallery.png") as picture:
            pictures.append(np.array(picture.convert("RGB")).astype(int))
    shown, hidden = pictures
    assert shown.shape == hidden.shape
    # Both labels differ, but among the tiles only black against white makes the full difference.
    assert ((hidden - shown) == 255).all(-1).sum() > 2 * 4 * 60**2
    assert (shown[[0, -1]] == 255).all()


def test_find__labels_tell_what_differs(make_masks: MakeMasks, tmp_path: Path) -> None:
    for k, (weight, side) in enumerate([(30.0, "upper"), (3.0, "upper"), (30.0, "two")]):
        keys = {"_target_": "x", "budget_weight": weight, "budget_side": side, "num_masks": 2}
        make_masks("sequential", hash8=f"{k:08d}", keys=keys, config={"device": f"cuda{k}"})
    make_masks("adios", keys={"num_masks": 4})
    assert labels(tmp_path / "runs") == [
        "ADIOS",
        "Sequential budget_side=two budget_weight=30",
        "Sequential budget_side=upper budget_weight=3",
        "Sequential budget_side=upper budget_weight=30",
    ]


def test_find__labels_of_other_keys(make_masks: MakeMasks, tmp_path: Path) -> None:
    for k, epochs in enumerate((5, 10)):
        keys = {"budget": 0.1 * epochs, "initial_area": 0.1 * epochs}  # vary together
        config = {"epochs": 5, "optimiser": {"lr": epochs}}
        make_masks("sequential", hash8=f"s{k}", keys=keys, config=config)
        make_masks("random", hash8=f"r{k}", config={"epochs": epochs, "optimiser": {"lr": 1}})
        make_masks("adios", hash8=f"a{k}")
    assert labels(tmp_path / "runs") == [
        "ADIOS [a0]",
        "ADIOS [a1]",
        "Random epochs=5",
        "Random epochs=10",
        "Sequential budget=0.5 optimiser.lr=5",
        "Sequential budget=1 optimiser.lr=10",
    ]


def test_find__overlapping_folders_and_seeds(make_masks: MakeMasks, tmp_path: Path) -> None:
    for seed in (10, 9):
        make_masks("adios", seed)
    (one,) = find([tmp_path / "runs", tmp_path / "runs" / "scenes"]).configurations
    assert [masked.run.seed for masked in one.runs] == [9, 10]


def test_sheets__at_most_so_many(make_masks: MakeMasks, tmp_path: Path) -> None:
    for k in range(7):
        make_masks("adios", hash8=f"{k:08d}", keys={"sparsity": k})
    found = find([tmp_path / "runs"]).configurations
    assert {name: len(own) for name, own in sheets(found, 3).items()} == {"_1": 3, "_2": 3, "_3": 1}
    assert sheets(found, 7) == {"": found}
    (tmp_path / "out").mkdir()
    out = report(tmp_path)
    assert {path.name for path in out.glob("curves*.png")} == {"curves_1.png", "curves_2.png"}


def test_series__long_logs_are_averaged() -> None:
    lines = [{"step": k, "slot_loss": [k + 1.0], "unmasked_loss": 1.0} for k in range(600)]
    lines += [{"step": 600, "slot_loss": [0.0]}]
    steps, values = series(lines, added_loss)
    assert len(steps) == 150
    np.testing.assert_allclose(values[:, 0], steps)
    assert steps[0] == 1.5  # of 0, 1, 2, 3


def refuse(capsys, *arguments: Path | str) -> str:
    assert main([*map(str, arguments), "--out", "unused"]) == 2
    error: str = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_masks__nothing_to_show(make_run, tmp_path: Path, capsys) -> None:
    assert f"{tmp_path / 'nowhere'} is no folder" in refuse(capsys, tmp_path / "nowhere")
    make_run("none", 0, {("linear", "scenes"): 1.0})
    assert f"no run below {tmp_path / 'runs'} has masks" in refuse(capsys, tmp_path / "runs")


def left_out(path: Path) -> str:
    """Why the run of a broken file is not found, where another run is."""
    (run,) = [folder for folder in path.parents if folder.name == "seed0"]
    found = find([run.parents[1], run])  # the run is told once
    assert [one.label for one in found.configurations] == ["Random (demo)"]
    (problem,) = found.problems
    assert problem.startswith(f"{path} ")
    assert "\n" not in problem
    return problem


@pytest.fixture
def adios(make_masks: MakeMasks) -> Path:
    """Folder of one of two runs."""
    make_masks("random")
    return make_masks("adios")


@pytest.mark.parametrize("kept", [0, 100, -30])
def test_masks__broken_file(adios: Path, kept: int) -> None:
    path = adios / "masks" / "test.npz"
    path.write_bytes(path.read_bytes()[:kept])
    assert f"{path} is broken" in left_out(path)


@pytest.mark.parametrize(
    "arrays",
    [
        {"masks": perfect()},
        {"images": images("scenes"), "masks": perfect() / 255},
        {"images": images("scenes"), "masks": perfect()[:2]},
        {"images": images("scenes")[:0], "masks": perfect()[:0]},
        {"images": images("scenes"), "masks": perfect(), "segments": perfect()},
        {"images": images("scenes"), "masks": np.array(3, np.uint8)},
    ],
)
def test_masks__wrong_arrays(adios: Path, arrays) -> None:
    path = adios / "masks" / "test.npz"
    np.savez(path, **arrays)
    assert f"{path} is broken" in left_out(path)


BOMB = "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghi"))


@pytest.mark.parametrize(
    "text",
    [
        None, "a: 1", "run: {seed: 0}", "run: []", "[", "\0", "[" * 50_000,
        "[" * 50_000 + "]" * 50_000, "- " * 50_000, "a: &a {a: *a}", "a: &a [x]\n" + BOMB,
    ],
)  # fmt: skip
def test_masks__no_configuration(adios: Path, text) -> None:
    path = adios / "config.yaml"
    path.unlink() if text is None else path.write_text(text)
    assert "is not the configuration of a run" in left_out(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [("seed", "0"), ("seed", True), ("method", 3), ("data", "\x1b[2J"), ("hash8", None), ("x", 1)],
)
def test_masks__configuration_of_wrong_types(adios: Path, key, value):
    path = adios / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["run"][key] = value
    path.write_text(yaml.safe_dump(config))
    assert "is not the configuration of a run" in left_out(path)


@pytest.mark.parametrize(
    "text",
    [
        '{"epoch": 0', "[]", '{"epoch": 0, "step": "1"}', '{"epoch": 0, "step": 1, "slot_loss": 3}',
        '{"epoch": 0, "step": 1, "slot_area": [NaN]}', "[" * 100_000, "\xff",
        '{"epoch": 0, "step": 1, "slot_area": [1]}\n{"epoch": 0, "step": 2, "slot_area": []}',
    ],
)  # fmt: skip
def test_masks__broken_metrics(adios: Path, text: str) -> None:
    path = adios / "metrics.jsonl"
    path.write_text(text, encoding="latin-1")
    assert f"{path} is broken" in left_out(path)


@pytest.mark.parametrize("text", ["{", '{"commit": 3}', '{"commit": "\\u001b[2J"}'])
def test_masks__broken_record(adios: Path, text: str) -> None:
    path = adios / "pretraining.json"
    path.write_text(text)
    left_out(path)


def test_masks__a_run_with_a_broken_file_is_left_out(adios: Path, tmp_path: Path, capsys) -> None:
    (adios / "metrics.jsonl").write_text("{")
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 1
    assert [row[0] for row in rows(tmp_path / "out")[2:]] == ["Random (demo)"]
    error = capsys.readouterr().err
    assert error.startswith(f"error: {adios / 'metrics.jsonl'} is broken")
    assert error.count("\n") == 1


def test_masks__nothing_but_broken_files(make_masks: MakeMasks, tmp_path: Path, capsys) -> None:
    path = make_masks("adios") / "metrics.jsonl"
    path.write_text("{")
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_masks__the_same_run_twice(make_masks: MakeMasks, tmp_path: Path, capsys) -> None:
    make_masks("adios")
    (tmp_path / "runs").rename(tmp_path / "copy")
    make_masks("adios")
    assert "come from the same run" in refuse(capsys, tmp_path / "runs", tmp_path / "copy")


def test_masks__other_images(make_masks: MakeMasks, tmp_path: Path, capsys) -> None:
    make_masks("adios")
    path = make_masks("random") / "masks" / "test.npz"
    np.savez(path, images=255 - images("scenes"), masks=perfect(), segments=objects())
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 2
    assert "masks of different images" in capsys.readouterr().err


def test_masks__out_is_a_file(make_masks: MakeMasks, tmp_path: Path, capsys) -> None:
    make_masks("adios")
    (tmp_path / "out").write_text("")
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 2
    assert str(tmp_path / "out") in capsys.readouterr().err
