"""Masks during training: they change no byte of it, and are the same however it was interrupted."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from benchmark import record
from benchmark.build import build_pretraining
from benchmark.checkpoint import save_encoder
from benchmark.contracts import Batch, Proposal
from benchmark.cost import Cost
from benchmark.gallery import Snapshots, save_masks
from benchmark.plan import Planner
from benchmark.pretrain import Pretraining
from benchmark.trackers import NOBODY, Trackers
from methods.random_patches import RandomPatches

ROOT = Path(__file__).parents[2]
CONF = ROOT / "benchmark" / "conf"
METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
HIDING = [m for m in METHODS if m not in ("none", "untrained", "supervised")]
CPU = torch.device("cpu")
SMALL = (
    "preset=smoke",
    "data.train_count=16",
    "data.test_count=10",
    "batch_size=8",
    "epochs=2",
    "encoder.width=8",
    "objective.hidden_dim=16",
    "objective.output_dim=8",
    "log_every_steps=1",
    "log_limits=false",
    "task=[]",
)
STEPS = 4
# Where looking could leave a trace: running statistics, multipliers, the encoder's gradient.
STATEFUL = [
    ("method=sequential", "mask_net.norm=batch", "method.budget_weight=auto"),
    ("method=adios", "mask_net.norm=batch", "update=simultaneous"),
    ("method=superpixel_budget", "mask_net.norm=batch", "turns.encoder_steps=2"),
    ("method=gradient", "batchnorm=adios_probe", "mask_both_views=true"),
]


class Drawing(RandomPatches):
    """Draws from torch's own generator and counts its calls, which no method should."""

    def __init__(self) -> None:
        super().__init__(image_size=32, patch_size=4, ratio=0.25)
        self.register_buffer("calls", torch.zeros(()))
        self.unused = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, batch: Batch) -> Proposal:
        self.calls = self.calls + 1
        return Proposal((torch.rand_like(batch.pixels[1, :, :1]) < 0.25).float())


@pytest.fixture(scope="module")
def planner() -> Planner:
    return Planner()


@pytest.fixture
def begin(planner: Planner, monkeypatch, tmp_path) -> Callable[..., Pretraining]:
    """Builds a small training; a clock that stands still lets its files be compared."""
    clock = SimpleNamespace(monotonic=lambda: 0.0, time=lambda: 0.0)
    monkeypatch.setattr(record, "time", clock)
    monkeypatch.setattr(Pretraining, "cost_per_image", lambda training: Cost(1.0, 1.0))  # slow
    monkeypatch.chdir(tmp_path)
    planned = cache(lambda options: planner.plan([*SMALL, *options]).cfg)

    def build(*options: str) -> Pretraining:
        cfg = planned(options)
        return build_pretraining(cfg, planner.data(cfg), CPU)

    return build


def train(
    training: Pretraining,
    folder: Path,
    parts: int,
    trackers: Trackers = NOBODY,
    stop: Callable[[int], object] = lambda done: None,
) -> dict[str, bytes]:
    """Train to the end, unless ``stop`` raises; returns what is there, without the masks."""
    look = Snapshots(folder / "masks", training, parts, lambda: None, trackers)

    def watch(done: int) -> None:
        look(done)
        stop(done)

    training.run(folder, "test", lambda *_: None, lambda: None, trackers, watch)
    save_encoder(folder / "encoder.safetensors", training.trainer.encoder)
    files = [path for path in folder.rglob("*") if path.is_file() and "masks" not in path.parts]
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    del found["progress.json"]  # what an attempt notes first
    return found


def kept(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "masks/steps").glob("*"))}


@pytest.mark.parametrize(
    "options",
    [*((f"method={method}",) for method in METHODS), *STATEFUL],
    ids=lambda options: "-".join(o.rpartition("=")[2] for o in options),
)
def test_snapshots__change_no_byte_of_a_training(begin, tmp_path, options) -> None:
    torch.manual_seed(0)
    without = train(begin(*options), tmp_path / "without", 0)
    torch.manual_seed(0)
    training = begin(*options)
    assert train(training, tmp_path / "with", 8) == without
    assert {"encoder.safetensors", "metrics.jsonl"} < without.keys()
    assert sum(name.startswith("checkpoints/") for name in without) == 1
    assert not kept(tmp_path / "without")
    hides = training.trainer.method.hides
    assert len(kept(tmp_path / "with")) == (STEPS + 1 if hides else 0)
    assert save_masks(tmp_path / "with/masks", training) is hides


def test_snapshots__put_back_what_a_method_should_not_have_touched(begin, tmp_path) -> None:
    found = []
    for parts in (0, 8):
        training = begin("method=none")
        training.trainer.method = Drawing()
        torch.manual_seed(7)
        found.append(train(training, tmp_path / str(parts), parts))
        assert training.trainer.method.calls == STEPS
        found.append({"rng": torch.get_rng_state().numpy().tobytes()})
    assert found[:2] == found[2:]
    assert len(kept(tmp_path / "8")) == STEPS + 1


@pytest.mark.parametrize(
    "options",
    [("method=sequential",), ("method=superpixel_budget", "mask_net.norm=batch"), ("swapped",)],
)
def test_snapshots__end_with_the_masks_of_the_trained_method(begin, tmp_path, options) -> None:
    training = begin(*(o if "=" in o else f"method={o}" for o in options))
    train(training, tmp_path, 8)
    assert save_masks(tmp_path / "masks", training)
    last = np.load(tmp_path / f"masks/steps/step{STEPS:08}.npz")
    whole = np.load(tmp_path / "masks/test.npz")
    assert set(last) == {"images", "masks", "segments", "fingerprint", "step", "epoch"}
    for name in ("images", "masks", "segments"):
        assert last[name].dtype == np.uint8
        assert np.array_equal(last[name], whole[name][:8])
    assert last["fingerprint"] == whole["fingerprint"]


def test_snapshots__tell_when_they_were_taken(begin, tmp_path) -> None:
    train(begin("method=adios"), tmp_path, 3)
    found = [np.load(path) for path in sorted((tmp_path / "masks/steps").iterdir())]
    assert [(int(f["step"]), float(f["epoch"])) for f in found] == [
        (0, 0.0), (1, 0.5), (2, 1.0), (4, 2.0)
    ]  # fmt: skip
    for one, other in itertools.combinations(found, 2):
        assert np.array_equal(one["images"], other["images"])
        assert not np.array_equal(one["masks"], other["masks"])


def test_snapshots__follow_a_schedule(begin, tmp_path) -> None:
    ramp = "method.ratio={start:0.1,end:0.5,begin:0,until:1,curve:linear}"
    train(begin("method=random", ramp), tmp_path, 4)
    files = sorted((tmp_path / "masks/steps").iterdir())
    shares = [np.load(path)["masks"].mean() / 255 for path in files]
    assert shares == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5], abs=0.01)


@pytest.mark.parametrize("parts", [1, 3, 100])
def test_snapshots__are_of_distinct_steps(begin, tmp_path, parts: int) -> None:
    train(begin("method=random"), tmp_path, parts)
    steps = [int(name[4:12]) for name in kept(tmp_path)]
    assert steps == sorted({STEPS * k // parts for k in range(parts + 1)})
    assert {0, STEPS} <= set(steps)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("method", ["sequential", "gradient"])
def test_snapshots__are_the_same_after_a_kill(begin, tmp_path, method: str) -> None:
    """After a step's masks and before its checkpoint, also where the masks are lost."""
    options = (f"method={method}", "mask_net.norm=batch", "checkpoint_every_seconds=0")
    whole = train(begin(*options), tmp_path / "whole", 8)
    folder = tmp_path / "killed"
    for last in (0, 2, 3, STEPS):

        def stop(done: int, last: int = last) -> None:
            if done == last:
                raise KilledError

        with pytest.raises(KilledError):
            train(begin(*options), folder, 8, stop=stop)
    (folder / f"masks/steps/step{STEPS - 1:08}.npz").unlink()  # made again where training goes on
    (folder / f"masks/steps/step{STEPS:08}.npz").write_bytes(b"half")
    found = train(begin(*options), folder, 8)
    for name in ("encoder.safetensors", "metrics.jsonl"):
        assert found[name] == whole[name]
    assert kept(folder) == kept(tmp_path / "whole")


def test_snapshots__are_not_written_into_a_lost_folder(begin, tmp_path) -> None:
    def check() -> None:
        raise KilledError

    look = Snapshots(tmp_path / "masks", begin("method=random"), 8, check, NOBODY)
    with pytest.raises(KilledError):
        look(0)
    assert not (tmp_path / "masks").exists()


class Following:
    """A tracker that keeps what it is told."""

    def __init__(self, done: int) -> None:
        self.told: list[tuple[int, tuple[int, ...]]] = []

    def scalars(self, step: int, values) -> None:
        pass

    def picture(self, step: int, picture: np.ndarray) -> None:
        assert picture.dtype == np.uint8
        self.told.append((step, picture.shape))

    def close(self) -> None:
        pass


def test_snapshots__are_shown_to_trackers(begin, tmp_path) -> None:
    following = Following(0)
    train(begin("method=sequential"), tmp_path, 2, Trackers([lambda done: following]))
    side = 32 + 2  # with the frame
    assert following.told == [(k, (8 * side + 2, 9 * side + 2, 3)) for k in (0, 2, 4)]


@pytest.mark.proof
def test_snapshots__of_several_processes_are_the_first_ones(tmp_path) -> None:
    line = [*SMALL, "method=sequential", "mask_net.norm=batch", "threads=1"]
    line += ["tensorboard=true", "seed=0"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    encoders = []
    for parts in (0, 4):
        folder = tmp_path / str(parts)
        folder.mkdir()
        script = [str(ROOT / "benchmark/run.py"), *line, f"mask_snapshots={parts}"]
        done = subprocess.run(
            [*torchrun, "--nproc-per-node=2", *script],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        (run,) = folder.glob("runs/scenes/*/seed0")
        assert (run / "encoder.safetensors").exists(), done.stdout + done.stderr
        encoders.append((run / "encoder.safetensors").read_bytes())
        assert len(list((run / "tensorboard").iterdir())) == 1
    assert encoders[0] == encoders[1]
    assert [int(name[4:12]) for name in kept(run)] == [0, 1, 2, 3, 4]
