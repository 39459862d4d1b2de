"""What a run is called, what is compared with what, and what a sweep contains."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmark import processes
from benchmark.errors import UserError
from benchmark.plan import Planned, Planner
from benchmark.run import plan as plan_line
from benchmark.sweep import control_line, expand

SMALL = ("data.train_count=128", "data.test_count=16", "precision=fp32")


@pytest.fixture(scope="module")
def planner() -> Planner:
    return Planner()


@pytest.fixture
def plan(planner: Planner, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def of(*overrides: str) -> Planned:
        return planner.plan([*SMALL, *overrides])

    return of


@pytest.mark.parametrize(
    "change",
    [
        "seed=1",
        "eval_seeds=[1,2]",
        "task=knn",
        "residence=host",
        "data_dir=elsewhere",
        "runs_dir=elsewhere",
        "device=cpu",
        "jobs=1",
        "probe.enabled=false",
        "log_every_steps=1",
        "checkpoint_every_seconds=2",
        "controls=[]",
        "tasks.linear.epochs=3",
        "mask_net.width=16",  # no net in this method
        "turns.mask_steps=2",  # no adversary
        "log_limits=false",
        "mask_optimiser.lr=1e-5",
        "data.test_count=20",
        "processes=1",
        "sync_batchnorm=false",  # of one process there is nothing to synchronise
        "update=simultaneous",  # no adversary
        "trainer.branches=batch",
        "trainer.compile=default",
        "trainer.profile=true",
    ],
)
def test_plan__hash_is_blind_to_what_changes_no_encoder(plan, change: str) -> None:
    assert plan(change).run.hash8 == plan().run.hash8


@pytest.mark.parametrize(
    "change",
    [
        "epochs=7",
        "batch_size=32",
        "precision=bf16",
        "threads=2",
        "fill=blur",
        "fill_blur_sigma=0.1",
        "mask_both_views=true",
        "unmasked_pair=true",
        "drop_last=false",
        "normalisation.std=[0.2,0.2,0.2]",
        "batchnorm=adios",
        "encoder.width=8",
        "objective.temperature=0.1",
        "augment.hue=0.2",
        "encoder_optimiser.lr=1e-3",
        "schedule.warmup_epochs=1",
        "data.background_contrast=31",
        "data.train_count=127",
        "method=adios",
    ],
)
def test_plan__hash_sees_what_changes_the_encoder(plan, change: str) -> None:
    assert plan(change).run.hash8 != plan().run.hash8


def test_plan__setting_is_shared_by_methods_and_objectives(plan) -> None:
    settings = {
        plan(o).run.setting
        for o in ("seed=1", "method=adios", "objective=byol", "method=untrained")
    }
    assert settings == {plan().run.setting}
    assert plan("epochs=7").run.setting != plan().run.setting


@pytest.mark.parametrize("update", ["simultaneous", "low_memory"])
def test_plan__another_update_is_another_run_that_says_so(plan, update: str) -> None:
    ordinary, other = (plan("method=adios", f"update={u}").run for u in ("alternating", update))
    assert ordinary.hash8 == plan("method=adios").run.hash8 != other.hash8
    assert (ordinary.update, other.update) == ("alternating", update)
    untrained = plan("method=untrained", f"update={update}").run
    assert untrained.hash8 == plan("method=untrained").run.hash8
    assert untrained.update == "alternating"


def test_plan__controls_are_the_same_for_every_objective(plan) -> None:
    supervised = plan("method=supervised").run
    assert plan("method=supervised", "objective=byol").run.hash8 == supervised.hash8
    assert plan("method=supervised", "epochs=7").run.hash8 != supervised.hash8


def test_plan__result_folder_tells_protocol_and_data_apart(plan) -> None:
    def folder(*overrides: str) -> str:
        (task,) = [t for t in plan(*overrides).run.tasks if t.name == "transfer"]
        return task.result.parent.name

    assert folder() == folder("seed=3")
    assert folder().startswith("transfer-digits-")
    assert folder() != folder("+tasks.transfer.epochs=3")
    assert folder("data@tasks.transfer.data=scenes").startswith("transfer-scenes-")


def test_plan__a_method_outside_the_suite_is_hashed_by_its_source(
    plan, tmp_path: Path, monkeypatch
) -> None:
    source = """
from benchmark.contracts import MaskingMethod, Proposal
class Half(MaskingMethod):
    version = 1
    num_masks = 1
    def __init__(self):
        super().__init__()
    def forward(self, batch):
        return Proposal(batch.pixels[:, :1] * 0)
"""
    (tmp_path / "method").mkdir()
    (tmp_path / "method/half.yaml").write_text("_target_: half_mask.Half\n")
    module = tmp_path / "half_mask.py"
    monkeypatch.syspath_prepend(str(tmp_path))
    line = (f"hydra.searchpath=[file://{tmp_path}]", "method=half")
    module.write_text(source)
    first = plan(*line).run
    assert first.method == "half"
    module.write_text(source + "# a change\n")
    assert plan(*line).run.hash8 != first.hash8


def test_expand__is_a_product() -> None:
    runs = expand(["method=a,b", "seed=0,1", "epochs=3"], multirun=True)
    assert runs == [[f"method={m}", f"seed={s}", "epochs=3"] for m in "ab" for s in (0, 1)]


def test_expand__needs_m_for_a_sweep() -> None:
    with pytest.raises(UserError, match="add -m"):
        expand(["seed=range(3)"], multirun=False)


def test_control_line__drops_what_controls_do_not_know() -> None:
    line = ["method=adios,random", "method.num_masks=4,6", "+method.new=1", "seed=0,1", "epochs=3"]
    expected = ["method=untrained,supervised", "seed=0,1", "epochs=3"]
    assert control_line(line, ["untrained", "supervised"]) == expected


def sweep(*overrides: str) -> list[str]:
    plans, _ = plan_line(Planner(), [*SMALL, *overrides], multirun=True)
    return [f"{p.run.method}/{p.run.seed}" for p in plans]


def test_sweep__controls_come_once(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    runs = sweep("objective=simclr,byol", "method=adios", "method.num_masks=2,3", "seed=0,1")
    assert runs.count("adios/0") == 4
    assert sorted(runs[8:]) == ["supervised/0", "supervised/1", "untrained/0", "untrained/1"]


def test_sweep__refuses_two_protocols_in_one_cell(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"two protocols of tasks\.knn"):
        sweep("tasks.knn.k=5,6")


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp32")])
def test_plan__precision_auto_is_what_the_machine_computes(
    planner: Planner, tmp_path: Path, monkeypatch, native: bool, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: native)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    line = [o for o in SMALL if "precision" not in o]
    planned = planner.plan([*line, "device=cpu", "precision=auto"])
    fixed = planner.plan([*line, "device=cpu", f"precision={expected}"])
    assert planned.cfg.precision == planned.cfg.tasks["linear"]["precision"] == expected
    assert planned.run == fixed.run


@pytest.fixture
def started(monkeypatch):
    """Lets the plan believe that several processes were started, of which the first one plans."""

    def several(count: int) -> None:
        monkeypatch.setattr(processes, "started", lambda: count)
        monkeypatch.setattr(processes, "started_here", lambda: count)

    with processes.alone():
        yield several


def test_plan__several_processes_and_their_batchnorm_enter_the_hash(plan, started) -> None:
    one = plan().run
    started(2)
    two, apart = plan(), plan("sync_batchnorm=false")
    assert two.cfg.processes == 2
    assert len({one.hash8, two.run.hash8, apart.run.hash8}) == 3
    assert one.setting != two.run.setting
    assert plan("processes=2").run.hash8 == two.run.hash8


@pytest.mark.parametrize(
    ("line", "count", "message"),
    [
        ("processes=2", 1, "processes=2, but 1 was started; start torchrun --nproc-per-node"),
        ("processes=3", 2, "processes=3, but 2 were started; start torchrun --nproc-per-node"),
        ("processes=0", 1, "processes=0 must be at least 1"),
        ("batch_size=64", 3, "64 cannot be shared out among 3 processes; choose a multiple of 3 f"),
        ("batch_size=2", 2, "batch_size=2 cannot be shared out among 2 processes; choose a multip"),
        ("jobs=2", 2, "jobs=2 must be 1 or null with 2 processes, which share every run"),
        ("drop_last=false batch_size=42", 2, "leaves a batch of one of the 128 images, which Bat"),
        ("drop_last=false batch_size=15", 3, "leaves a batch of 8 of the 128 images, which 3 pro"),
    ],
)
def test_plan__what_several_processes_cannot_share(
    plan, started, line: str, count: int, message: str
) -> None:
    started(count)
    with pytest.raises(UserError, match=message):
        plan(*line.split())


def test_plan__last_batches_that_can_be_shared(plan, started) -> None:
    started(2)
    plan("drop_last=false", "batch_size=62")  # 4 images are left
    plan("drop_last=false", "batch_size=64")
