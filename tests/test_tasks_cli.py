"""Choosing tasks, somebody else's checkpoint, and the dry run, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet18

from benchmark.run import main

SMOKE = ("preset=smoke", "data.train_count=128", "data.test_count=64", "device=cpu")
EXTENSIONS = ("md", "tex", "csv")
FULL = ("encoder.width=64", "encoder.stem=imagenet")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, status: int = 0) -> str:
        assert main([*arguments, *SMOKE]) == status
        printed = capsys.readouterr()
        return printed.err if status else printed.out

    return run


def results(folder: Path) -> dict[str, dict]:
    files = sorted(folder.glob("runs/*/*/seed0/results/*/seed*.json"))
    return {f"{f.parent.name.rsplit('-', 1)[0]}/{f.stem}": json.loads(f.read_text()) for f in files}


def test_run__task_chooses_tasks(cli, tmp_path: Path) -> None:
    cli("task=[knn,linear]", "eval_seeds=[0,3]", "tasks.linear.epochs=1")
    # Nearest neighbours draw nothing, so one evaluation seed is enough for them.
    assert set(results(tmp_path)) == {
        "knn-scenes/seed0",
        "linear-scenes/seed0",
        "linear-scenes/seed3",
    }
    cli("task=knn")
    message = cli("task=knm", status=2)
    assert message.startswith("error: task=knm is not one of linear, finetune, knn")
    assert "error: tasks.transfer.like=nothing is not one of" in cli(
        "tasks.transfer.like=nothing", status=2
    )


def test_run__a_task_like_another_one_on_other_data(cli, tmp_path: Path) -> None:
    cli(
        "task=digits_linear",
        "+tasks.digits_linear.like=linear",
        "+data@tasks.digits_linear.data=digits",
        "tasks.linear.epochs=1",
    )
    (result,) = results(tmp_path).values()
    assert result["data"] == "digits"
    assert "for 1 epochs" in result["protocol"]
    assert "digits: Linear" in (tmp_path / "runs/tables/table2.md").read_text()


def test_run__a_task_like_another_one_with_nested_settings(cli, tmp_path: Path) -> None:
    cli(
        "task=shuffled",
        "+tasks.shuffled.like=robustness",
        "+tasks.shuffled.probe.epochs=1",
        "+tasks.shuffled.count=10",
    )
    (result,) = results(tmp_path).values()
    assert "SGD for 1 epochs in batches of 256" in result["protocol"]
    assert "on 10 test images" in result["protocol"]


def test_run__masks_are_of_the_images_they_are_scored_on(cli, tmp_path: Path) -> None:
    line = ("method=oracle", "task=mask_quality", "epochs=1")
    for more in ((), ("data.test_count=48",)):
        main([*line, *SMOKE, *more])
    files = tmp_path.glob("runs/*/oracle-*/seed0/results/mask_quality-*/seed0.json")
    found = [json.loads(file.read_text())["metrics"]["ari"] for file in files]
    assert len(found) == 2
    assert min(found) > 99  # the oracle's masks are the objects


def test_run__tables_of_two_commands_on_one_folder(cli, tmp_path: Path) -> None:
    """What an experiment writes of another one's runs is another table."""
    cli("task=knn", "epochs=1", "tables_dir=a")
    cli("task=transfer", "epochs=1", "tasks.linear.epochs=1", "tables_dir=b")
    scores = {
        out: {path.name for path in (tmp_path / out).glob("table[12].*")} for out in ("a", "b")
    }
    assert scores["a"] == {f"table1.{x}" for x in EXTENSIONS}
    assert scores["b"] == {f"table2.{x}" for x in EXTENSIONS}


def test_run__a_task_of_ones_own_without_data(cli, tmp_path: Path) -> None:
    cli(
        "task=mine",
        "+tasks.mine={_target_:tasks.knn.KNN,k:5,temperature:0.1,choose_on:100,precision:fp32}",
    )
    assert "Vote of the 5 training" in next(iter(results(tmp_path).values()))["protocol"]


def test_run__checkpoint_of_torchvision(cli, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(resnet18().state_dict(), tmp_path / "their resnet.pth")
    line = ("checkpoint=their resnet.pth", "format=torchvision", *FULL, "task=knn")
    assert "their-resnet" in cli(*line)
    (result,) = results(tmp_path).values()
    (folder,) = tmp_path.glob("runs/scenes/their-resnet-*/seed0")
    assert result["pretrain_seed"] == 0
    assert "*their-resnet (smoke)*" in (tmp_path / "runs/tables/table1.md").read_text()
    assert "reused pretraining, knn" in cli(*line)
    # Of other colours the same encoder has other features.
    cli(*line, "normalisation.mean=[0,0,0]")
    assert len(list(folder.parents[1].glob("their-resnet-*"))) == 2
    # Other weights under the same name are another encoder.
    torch.save(resnet18().state_dict(), tmp_path / "their resnet.pth")
    cli(*line)
    assert len(list(folder.parents[1].glob("their-resnet-*"))) == 3
    # Beside runs of the suite's own it is a row of their table.
    cli(*FULL, "task=knn", "epochs=1", "batch_size=32")  # of which the checkpoint knows nothing
    table = (tmp_path / "runs/tables/table1.md").read_text()
    assert "SimCLR (smoke)" in table
    assert table.count("their-resnet (smoke)") == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("format=timm",), "format=timm is of a checkpoint; set checkpoint=FILE too"),
        (("checkpoint=none.pth", "format=timm"), "checkpoint=none.pth is no file"),
        (("checkpoint=a.pth",), "checkpoint=a.pth needs format=torchvision|timm|solo-learn|adios"),
        (("checkpoint=a.pth", "format=jax"), "format=jax is not one of torchvision, timm"),
        (
            ("checkpoint=a.pth", "format=timm", "seed=1"),
            "is one finished encoder; leave seed=1 out",
        ),
        (
            ("checkpoint=a.pth", "format=timm", "method=adios"),
            "is one finished encoder; leave method=adios out",
        ),
        (("checkpoint=a.pth", "format=torchvision", "encoder.width=16"), "conv1.weight"),
    ],
)
def test_run__checkpoint_refused(cli, tmp_path: Path, arguments, message: str) -> None:
    torch.save(resnet18().state_dict(), tmp_path / "a.pth")
    printed = cli(*FULL, *arguments, status=2)
    assert message in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_run__dry_run_writes_nothing_and_knows_what_is_there(cli, tmp_path: Path) -> None:
    line = ("-m", "method=none,random", "seed=0", "controls=[]", "task=[knn,linear]")
    out = cli(*line, "dry_run=true")
    assert not (tmp_path / "runs").exists()
    assert "0 of 1 there" in out
    assert "PFLOP" in out
    cli("method=none", "seed=0", "task=knn")
    out = cli(*line, "dry_run=true")
    done, left = (
        next(row for row in out.splitlines() if name in row) for name in ("none-", "random-")
    )
    assert "1 of 1 there" in done
    assert "knn (1 of 1" in done
    assert "0 of 1 there" in left


def test_run__pflops_buy_epochs(cli, tmp_path: Path) -> None:
    line = ("task=knn", "method=random", "tasks.knn.k=5")
    cli(*line, "epochs=1")
    flops = json.loads(next(tmp_path.glob("runs/*/*/seed0/pretraining.json")).read_text())["cost"][
        "flops"
    ]
    cli(*line, f"pflops={2.5 * flops / 1e15}", "runs_dir=twice")
    (record,) = tmp_path.glob("twice/*/*/seed0/pretraining.json")
    assert json.loads(record.read_text())["cost"]["flops"] == pytest.approx(2 * flops)
    assert "does not pay for one epoch of methods.random_patches.RandomPatches" in cli(
        *line, f"pflops={0.9 * flops / 1e15}", status=2
    )


def test_run__dry_run_tells_encoders_of_one_name_apart(cli) -> None:
    widths = ("encoder.width=8,16", "controls=[]", "task=knn")
    out = cli("-m", "method=untrained", "seed=0", *widths, "dry_run=true")
    operations = [float(row.split()[-2]) for row in out.splitlines() if "untrained-" in row]
    assert len(operations) == 2
    assert max(operations) > 2 * min(operations)
