from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.errors import UserError
from benchmark.files import write_json
from benchmark.lock import DEAD_AFTER, LOCK, exclusive
from benchmark.runs import PlannedTask, Run, note_plans
from benchmark.state import RunState, find_runs, read_state

MakeRun = Callable[..., Run]
Queue = dict[str, str] | None


@pytest.fixture
def plan(tmp_path: Path) -> MakeRun:
    """Plan a run with two tasks, of which the second has two seeds, as a command does."""

    def make(seed: int = 0, data: str = "scenes") -> Run:
        folder = tmp_path / "runs" / data / "adios-0123abcd" / f"seed{seed}"
        places = [("knn", 0), ("linear", 0), ("linear", 1)]
        tasks = [
            PlannedTask(
                name=name,
                data=data,
                fingerprint="f",
                eval_seed=s,
                result=folder / f"results/{name}-{data}-ab12cd34/seed{s}.json",
                protocol_id="p",
            )
            for name, s in places
        ]
        run = Run(
            method="adios",
            objective="simclr",
            encoder="resnet18",
            data=data,
            preset="demo",
            seed=seed,
            control=None,
            fingerprint="f",
            hash8="0123abcd",
            setting="s",
            folder=folder,
            tasks=tuple(tasks),
        )
        note_plans([run])
        return run

    return make


def start(run: Run) -> None:
    (run.folder / "config.yaml").write_text("")


def progress(run: Run, **changes: Any) -> None:
    start(run)
    noted = {"step": 30, "steps": 120, "images_per_second": 41.5, "seconds_left": 75, "time": 1.0}
    write_json(run.folder / "progress.json", noted | changes)


def train(run: Run) -> None:
    progress(run)
    run.encoder_file.write_bytes(b"weights")
    write_json(run.pretraining_file, {"owner": "0123abcd/seed0"})


def score(run: Run, *which: int) -> None:
    for i in which:
        write_json(run.tasks[i].result, {"metrics": {"accuracy": 1.0}})


def finish(run: Run) -> None:
    train(run)
    score(run, 0, 1, 2)


def fail(file: Path, reason: str = "loss is not finite at step 7") -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"Traceback (most recent call last):\n  ...\n\n{reason}\n\n  \n")


def send(planned: Run, /, *, ago: float = 3600, **jobs: str) -> None:
    """Note jobs by part, as at their submission."""
    file = planned.folder / "jobs.json"
    write_json(file, {part: {"job": job, "log": f"logs/{job}.out"} for part, job in jobs.items()})
    os.utime(file, (time.time() - ago,) * 2)


def lock_from_elsewhere(folder: Path, *, ago: float) -> None:
    """A lock of another machine with its last heartbeat so long ago, in seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    owner = {"token": "t", "host": "n7", "pid": os.getpid(), "place": "elsewhere"}
    file = folder / LOCK
    file.write_text(json.dumps({**owner, "started": 1, "job": "14", "since": 1.0}))
    os.utime(file, (time.time() - ago,) * 2)


def state_of(run: Run, queue: Queue = None) -> str:
    return read_state(run.folder, queue).state


@pytest.mark.parametrize("queue", [None, {}, {"9": "PENDING Priority"}])
def test_read_state__without_jobs_the_queue_does_not_matter(plan: MakeRun, queue: Queue) -> None:
    run = plan()
    assert state_of(run, queue) == "queued"
    with exclusive(run.folder, print):
        assert state_of(run, queue) == "running"
    start(run)
    assert state_of(run, queue) == "stale"
    train(run)
    assert state_of(run, queue) == "stale"
    with exclusive(run.tasks[1].result.parent, print):
        assert state_of(run, queue) == "running"
    fail(run.tasks[1].error_file)
    assert state_of(run, queue) == "failed"
    score(run, 0, 1, 2)
    assert state_of(run, queue) == "failed"
    run.tasks[1].error_file.unlink()
    assert state_of(run, queue) == "done"
    assert read_state(run.folder, queue).in_queue is False


@pytest.mark.parametrize("missing", ["encoder.safetensors", "pretraining.json", "result"])
def test_read_state__done_needs_every_output(plan: MakeRun, missing: str) -> None:
    run = plan()
    finish(run)
    assert state_of(run) == "done"
    (run.tasks[2].result if missing == "result" else run.folder / missing).unlink()
    assert state_of(run) == "stale"


def test_read_state__progress_and_speed_while_it_trains(plan: MakeRun) -> None:
    run = plan()
    progress(run)
    with exclusive(run.folder, print):
        now = read_state(run.folder, None)
    assert (now.progress, now.images_per_second, now.seconds_left) == (0.25, 41.5, 75)
    left = read_state(run.folder, None)
    assert (left.progress, left.images_per_second, left.seconds_left) == (0.25, None, None)
    train(run)
    with exclusive(run.folder, print):
        assert read_state(run.folder, None).images_per_second is None
    score(run, 0)
    with exclusive(run.tasks[1].result.parent, print):
        later = read_state(run.folder, None)
    assert (later.progress, later.tasks_done, later.tasks) == (1.0, 1, 3)
    assert later.images_per_second is None
    assert later.name == "scenes/adios-0123abcd/seed0"


def test_read_state__no_steps_are_no_division(plan: MakeRun) -> None:
    run = plan()
    progress(run, step=0, steps=0)
    assert read_state(run.folder, None).progress == 0.0


def test_read_state__a_failure_while_others_work(plan: MakeRun) -> None:
    run = plan()
    train(run)
    fail(run.tasks[0].error_file, "no images of class 3")
    fail(run.tasks[2].error_file)
    with exclusive(run.tasks[1].result.parent, print):
        now = read_state(run.folder, None)
    assert now.state == "running"
    assert now.message == "knn: no images of class 3 (and 1 more)"
    assert now.log == str(run.tasks[0].error_file)


def test_read_state__the_last_line_of_the_error(plan: MakeRun) -> None:
    run = plan()
    fail(run.error_file)
    assert read_state(run.folder, None).message == "loss is not finite at step 7"
    run.error_file.write_bytes(b"x" * 10**6 + b"\n\xff broken\n")
    assert read_state(run.folder, None).message == "� broken"
    run.error_file.write_text("\n")
    assert read_state(run.folder, None).message == "error.txt is empty"


def test_read_state__the_process_was_killed(plan: MakeRun) -> None:
    run = plan()
    code = f"""
import time
from pathlib import Path
from benchmark.lock import exclusive
with exclusive(Path({str(run.folder)!r}), print):
    print("held", flush=True)
    time.sleep(600)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert state_of(run) == "running"
        process.send_signal(signal.SIGKILL)
    found = read_state(run.folder, None)  # although the last heartbeat is young
    assert found.state == "stale"
    assert str(process.pid) in (found.message or "")


@pytest.mark.parametrize(
    ("ago", "state"),
    [(0, "running"), (DEAD_AFTER - 30, "running"), (DEAD_AFTER + 30, "stale"), (-7200, "running")],
)
@pytest.mark.parametrize("of_a_task", [False, True])
def test_read_state__heartbeats_of_other_machines(
    plan: MakeRun, ago: float, state: str, of_a_task: bool
) -> None:
    run = plan()
    start(run)
    lock_from_elsewhere(run.tasks[2].result.parent if of_a_task else run.folder, ago=ago)
    found = read_state(run.folder, None)
    assert found.state == state
    if state == "stale":
        assert "n7" in (found.message or "")


def test_read_state__a_stopped_process_of_this_machine_still_holds_its_folder(
    plan: MakeRun,
) -> None:
    run = plan()
    with exclusive(run.folder, print):
        os.utime(run.folder / LOCK, (1.0, 1.0))
        assert state_of(run) == "running"


def test_read_state__a_lock_that_is_just_written_or_garbage_counts_by_its_age(
    plan: MakeRun,
) -> None:
    run = plan()
    file = run.folder / LOCK
    for content in ("", "[]", '{"pid": 3}', "\udcff"):
        file.write_bytes(content.encode(errors="surrogateescape"))
        assert state_of(run) == "running"
        os.utime(file, (1.0, 1.0))
        assert state_of(run) == "stale"


def test_read_state__a_job_that_waits(plan: MakeRun) -> None:
    run = plan()
    send(run, run="14_0")
    waiting = read_state(run.folder, {"14_0": "PENDING Priority"})
    assert waiting == RunState(
        run.folder,
        "queued",
        "PENDING Priority",
        tasks=3,
        job="14_0",
        log="logs/14_0.out",
        in_queue=True,
    )
    progress(run)  # requeued
    assert state_of(run, {"14_0": "PENDING BeginTime"}) == "queued"
    fail(run.error_file)  # of an earlier attempt
    assert state_of(run, {"14_0": "PENDING Resources"}) == "queued"


def test_read_state__a_job_that_is_gone(plan: MakeRun) -> None:
    run = plan()
    send(run, run="14_0")
    assert state_of(run, {"14_1": "RUNNING None"}) == "stale"
    progress(run)
    assert state_of(run, {}) == "stale"
    fail(run.error_file)
    assert state_of(run, {}) == "failed"
    run.error_file.unlink()
    finish(run)
    assert state_of(run, {}) == "done"
    assert state_of(run, {"14_0": "COMPLETING None"}) == "done"


def test_read_state__slurm_cannot_be_asked(plan: MakeRun) -> None:
    run = plan()
    send(run, run="14_0")
    unknown = read_state(run.folder, None)
    assert (unknown.state, unknown.in_queue, unknown.job) == ("queued", None, "14_0")
    with exclusive(run.folder, print):
        assert state_of(run, None) == "running"
    progress(run)
    assert state_of(run, None) == "stale"
    fail(run.error_file)
    assert state_of(run, None) == "failed"
    run.error_file.unlink()
    finish(run)
    assert read_state(run.folder, None).in_queue is False  # nothing is to be expected of it


def test_read_state__a_job_sent_after_the_queue_was_read_is_not_gone(plan: MakeRun) -> None:
    run = plan()
    send(run, ago=0, run="14_0")
    assert state_of(run, {}) == "queued"
    send(run, ago=-7200, run="14_0")  # by a clock that jumped: not so for two hours
    assert state_of(run, {}) == "stale"


def test_read_state__stages_in_jobs_of_their_own(plan: MakeRun) -> None:
    run = plan()
    send(run, pretraining="20", knn="21", linear="22")
    pending = "PENDING Dependency"
    first = read_state(run.folder, {"20": "RUNNING None", "21": pending, "22": pending})
    assert (first.state, first.job) == ("queued", "20")
    train(run)
    second = read_state(run.folder, {"21": pending, "22": "RUNNING None"})
    assert (second.state, second.job, second.log) == ("queued", "22", "logs/22.out")
    score(run, 1, 2)
    fail(run.tasks[0].error_file)
    third = read_state(run.folder, {"22": "COMPLETING None"})  # all that it is for is there
    assert (third.state, third.job) == ("failed", "21")
    score(run, 0)
    run.tasks[0].error_file.unlink()
    assert state_of(run, {}) == "done"


def test_read_state__a_job_that_will_never_start_is_not_waited_for(plan: MakeRun) -> None:
    run = plan()
    send(run, pretraining="20", knn="21")
    never = {"21": "PENDING DependencyNeverSatisfied"}
    assert state_of(run, never) == "stale"
    fail(run.error_file)
    assert state_of(run, never) == "failed"


BROKEN = [
    ("plan.json", "{"),
    ("plan.json", "[]"),
    ("plan.json", "{}"),
    ("plan.json", '{"tasks": [3]}'),
    ("plan.json", '{"tasks": [{"name": "knn", "result": 3}]}'),
    ("plan.json", "[" * 100_000),
    ("plan.json", b"\xff"),
    ("progress.json", "null"),
    ("progress.json", '{"step": "one"}'),
    ("progress.json", '{"step": NaN, "steps": 3}'),
    ("progress.json", '{"step": -1, "steps": 3}'),
    ("progress.json", f'{{"step": {10**400}, "steps": 3}}'),
    ("jobs.json", "14_0"),
    ("jobs.json", '{"run": "14_0"}'),
    ("jobs.json", '{"run": {"job": 14, "log": "x"}}'),
    ("results", "a file"),
]


@pytest.mark.parametrize(("name", "content"), BROKEN)
def test_read_state__a_broken_file_is_told(plan: MakeRun, name: str, content: str | bytes) -> None:
    run = plan()
    start(run)
    path = run.folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    found = read_state(run.folder, {})
    assert found.state == "failed"
    assert (found.message or "").startswith("cannot be read: ")
    assert str(path) in (found.message or "")


def test_find_runs__in_every_folder_above_a_run(plan: MakeRun, tmp_path: Path) -> None:
    folders = [plan(seed, data).folder for data in ("scenes", "seeds") for seed in (0, 2)]
    runs = tmp_path / "runs"
    (runs / "scenes" / "adios-0123abcd" / "seed1").mkdir()  # of a version without plans
    for stray in ("tables", ".cache", "scenes/notes"):
        (runs / stray).mkdir()
        (runs / stray / "plan.json").write_text("{}")
    assert find_runs(runs) == folders
    assert find_runs(runs / "seeds") == folders[2:]
    assert find_runs(folders[0].parent) == folders[:2]
    assert find_runs(folders[3]) == folders[3:]


def test_find_runs__one_sentence_where_there_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name, why in (("gone", "does not exist"), ("file", "is no folder"), ("", "no planned run")):
        with pytest.raises(UserError, match=why):
            find_runs(tmp_path / name)
