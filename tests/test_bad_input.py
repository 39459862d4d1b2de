"""A user's mistake costs one sentence and leaves nothing behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmark.run import main

ROOT = Path(__file__).parents[1]


def folder_of_images(folder: Path, classes: tuple[str, ...], count: int = 40) -> Path:
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (32, 32), (i, 2 * i, 99)).save(folder / name / f"{i}.png")
    return folder


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("method=foo", "method=foo is unknown; choose one of adios, adios_s, block,"),
        ("data=foo", "data=foo is unknown; choose one of cifar10, cifar100, clevr, "),
        ("epoch=3", "unknown key 'epoch'; did you mean 'epochs'?"),
        ("method=sequential method.budgt=0.3", "did you mean 'method.budget'?"),
        ("encoder.witdh=3", "did you mean 'encoder.width'?"),
        ("+speed=3", "unknown key 'speed'"),
        ("+method.speed=3", "unexpected keyword argument 'speed'"),
        ("seed=abc", "seed: Value 'abc' of type 'str' could not be converted to Integer"),
        ("seed=-1", "seed=-1 must be at least 0"),
        ("seed=0,1,2", "'seed=0,1,2' lists several values; add -m"),
        ("epochs=-1", "epochs=-1 must be at least 0"),
        ("batch_size=1", "batch_size=1 must be at least 2"),
        ("batch_size=5000", "batch_size=5000 exceeds the 128 training images"),
        ("threads=0", "threads=0 must be at least 1"),
        ("processes=2", "processes=2, but 1 was started; start torchrun --nproc-per-node"),
        ("jobs=0", "jobs=0 must be at least 1"),
        ("precision=fp8", "precision=fp8 is not one of fp32, bf16"),
        ("fill=black", "fill=black is not one of zero, mean, blur, noise"),
        ("fill_blur_sigma=0", "fill_blur_sigma=0.0 must be above 0"),
        ("turns.mask_steps=0", "turns.mask_steps=0 must be at least 1"),
        ("turns.first=me", "turns.first=me is not one of encoder, mask"),
        ("turns.encoder_mode=off", "turns.encoder_mode=off is not one of train, eval"),
        ("normalisation.std=[0,1,1]", "normalisation.std=[0.0, 1.0, 1.0] must be null or three"),
        ("drop_last=false batch_size=127", "drop_last=false leaves a batch of one"),
        ("experiment=foo", "experiment=foo is unknown; choose one of "),
        ("method=oracle data=digits", "Oracle needs the objects of each image, and digits has"),
        ("method=random method.ratio={start:0.1}", "method.ratio: lacks 'end'; give a number, or"),
        ("method=sequential method.budget={start:0.1,end:2}", "method.budget=2.0 must lie between"),
        ("method=sequential method.budget_weight=car", "budget_weight='car' must be"),
        ("method=sequential method.activation=stick_breaking", "set it below 0.2"),
        ("method=sequential method.consistency_kernel=2", "consistency_kernel=2 must be odd"),
        ("method=superpixel_budget method.budget.order=up", "order='up' must be one of"),
        ("method=superpixel_budget method.budget.num_clusters=99", "num_clusters=99 must lie"),
        ("method=superpixel_budget method.budget.num_segments=5000", "num_segments=5000 must lie"),
        ("method=sequential method.overlap_weight=nan", "overlap_weight=nan must be a finite"),
        ("augment.image_size=64", "augment.image_size=64 differs from the 32 pixels"),
        ("method=swapped method.inner.num_masks=0", "num_masks=0 must be at least 1"),
        ("batchnorm=never", "batchnorm=never is not one of once, adios"),
        ("device=tpu", "device=tpu is not one of auto, cpu, cuda"),
        ("method=sequential method.budget=0", "budget=0.0 must lie between 0 and 1"),
        ("method=sequential method.budget=1.0", "budget=1.0 must lie between 0 and 1"),
        ("method=sequential method.num_masks=0", "num_masks=0 must be at least 1"),
        ("method=sequential method.num_masks=x", "num_masks='x' must be of type int"),
        ("method=sequential method.budget_side=up", "must be one of upper, two, hard"),
        ("method=adios method.num_masks=0", "num_masks=0 must be at least 2"),
        ("method=adios data.image_size=30", "images of 30 pixels often enough; set data.image"),
        ("method=random method.patch_size=5", "patch_size=5 must divide the image size 32"),
        ("encoder_optimiser.name=sgdd", "optimiser 'sgdd' is unknown; choose one of sgd, lars"),
        ("encoder_optimiser.lr=-1", "optimiser lr=-1.0 must not be negative"),
        ("schedule.per=minute", "schedule.per=minute is not one of epoch, step"),
        ("augment.min_scale=2", "min_scale=2"),
        ("tasks.linear.epochs=0", "epochs=0 must be at least 1"),
        ("data=folder", "data.train has no value; set data.train="),
        ("data=folder data.train=nowhere", "train=nowhere is not a folder"),
        ("data=folder data.train=nowhere data.on_bad_image=hide", "on_bad_image"),
        ("method._target_=methods.nothing.Nothing", "'methods.nothing.Nothing' cannot be imported"),
        ("runs_dir=/proc/nowhere", "/proc/nowhere cannot be written"),
        ("method._target_=null", "names no _target_"),
        ("method._target_=torch.nn.Identity", "Identity is no MaskingMethod"),
        ("method._target_=torch.zeros", "is no class or function of Python"),
        ("control=foo", "control=foo is not one of null, untrained, supervised"),
        ("controls=[best]", "best is not one of"),
        ("probe.lr=-1", "probe.lr=-1.0 must not be negative"),
        ("encoder_optimiser.momentum=1.0", "optimiser momentum=1.0 must be below 1"),
        ("objective.hidden_dim=0", "objective.hidden_dim=0 must be at least 1"),
        ("augment.blur_sigma=3", "benchmark.augment.Augment: blur_sigma=3 must be a list"),
        ("update=both", "update=both is not one of alternating, simultaneous, low_memory"),
        ("trainer.branches=both", "trainer.branches=both is not one of auto, loop, batch"),
        ("trainer.compile=on", "trainer.compile=on is not one of auto, off, default"),
        ("residence=disk", "residence=disk is not one of auto, device, host"),
        ("data.digit_size=20", "benchmark.scenes.load: digit_size=20 must be a list"),
        ("tasks.linear.data=digits", "choose one with data@tasks.linear.data=digits"),
        ("tasks.linear=foo", "'foo' names no _target_"),
        ("tasks.transfer.lr=0.5", "write +tasks.transfer.lr=... to change one"),
        (
            "+tasks.a={like:robustness,probe:3} task=a",
            "probe=3 must be a node that",
        ),
        ("+data@tasks.mask_quality.data=scenes task=mask_quality", "tasks.mask_quality.data must"),
        (
            "task=mask_quality",
            "task=mask_quality: mask_quality: NoMask hides nothing",
        ),
        ("pflops=nan", "pflops=nan must be a number above 0"),
        ("tables_dir=/proc/nowhere", "/proc/nowhere cannot be written"),
        ("tasks.finetune.head_lr=abc", "head_lr='abc' must be of type float"),
        ("tasks.finetune.head_lr=-1", "head_lr=-1"),
        ("tasks.knn.k=500", "k=500 exceeds the 128 training images"),
        ("~encoder", "encoder names no option; leave ~encoder out"),
        ("method=", "method"),
        ("=3", ""),
    ],
)
def test_main__one_sentence(line: str, message: str, tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    small = [] if "data=" in line else ["data.train_count=128", "data.test_count=16"]
    assert main([*small, *line.split()]) == 2
    out, err = capfd.readouterr()
    assert message in err
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) == 1
    assert "epoch" not in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "line",
    [
        "method=none,adios,foo",
        "method=none,adios batch_size=64,9999",
        "seed=0,1,x",
        "seed=interval(0,1)",
    ],
)
def test_main__a_sweep_is_checked_to_its_last_run_first(
    line: str, tmp_path: Path, monkeypatch, capfd
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["-m", "data.train_count=128", *line.split()]) == 2
    assert "epoch" not in capfd.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_main__cuda_without_a_device(tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["device=cuda"]) == 2
    assert "torch finds no CUDA device here; use device=auto or cpu" in capfd.readouterr().err


@pytest.mark.parametrize("bad", ["truncated", "no image"])
def test_main__a_bad_image_is_named(bad: str, tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    images = folder_of_images(tmp_path / "images", ("cat", "dog"))
    victim = images / "dog" / "7.png"
    victim.write_bytes(victim.read_bytes()[:60] if bad == "truncated" else b"hello")
    line = ["data=folder", f"data.train={images}", "batch_size=8"]
    assert main(line) == 2
    assert "dog/7.png" in capfd.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_main__classes_must_agree(tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.chdir(tmp_path)
    train = folder_of_images(tmp_path / "train", ("cat", "dog"), 4)
    test = folder_of_images(tmp_path / "test", ("cat", "cow"), 4)
    assert main(["data=folder", f"data.train={train}", f"data.test={test}"]) == 2
    err = capfd.readouterr().err
    assert "dog" in err
    assert "cow" in err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["data=folder", f"data.train={empty}"]) == 2
    assert "has 0 images" in capfd.readouterr().err


@pytest.mark.parametrize("flag", [["--cfg", "job"], ["--help"]])
def test_main__hydra_answers_its_own_flags(flag: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmark/run.py"), "method=adios", *flag],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "entropy: 0.7117732554" in done.stdout
    assert list(tmp_path.iterdir()) == []
