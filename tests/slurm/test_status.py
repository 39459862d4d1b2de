from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmark.files import write_json
from benchmark.lock import exclusive
from benchmark.state import RunState, State
from slurm.status import Look, main, watch

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(ROOT / "slurm" / "status.py")]
TRAINED = ("config.yaml", "encoder.safetensors", "pretraining.json")
MakeFolder = Callable[..., Path]


@pytest.fixture(autouse=True)
def _no_squeue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def folder(tmp_path: Path) -> MakeFolder:
    """Make a run folder with one task, as far as it is said to have come."""

    def make(
        seed: int, *files: str, error: str | None = None, job: str | None = None, runs: str = "runs"
    ) -> Path:
        run = tmp_path / runs / "scenes" / "adios-0123abcd" / f"seed{seed}"
        write_json(
            run / "plan.json", {"tasks": [{"name": "knn", "result": "results/knn/seed0.json"}]}
        )
        for name in files:
            (run / name).parent.mkdir(parents=True, exist_ok=True)
            (run / name).write_text("{}")
        if error is not None:
            (run / "error.txt").write_text(f"Traceback\n\n{error}\n")
        if job is not None:
            log = str(tmp_path / "logs" / f"{job}.out")
            write_json(run / "jobs.json", {"run": {"job": job, "log": log}})
            os.utime(run / "jobs.json", (1.0, 1.0))
        return run

    return make


def done(folder: MakeFolder, seed: int, **more: Any) -> Path:
    return folder(seed, *TRAINED, "results/knn/seed0.json", **more)


def fake_squeue(tmp_path: Path, *lines: str) -> None:
    file = tmp_path / "bin" / "squeue"
    file.write_text("#!/bin/sh\n" + "\n".join(f"echo '{line}'" for line in lines) + "\n")
    file.chmod(0o755)


def lines_of(text: str) -> dict[str, list[str]]:
    """The cells of the plain table by run, and the totals under ""."""
    _, *lines = text.splitlines()
    rows = {line.split()[0]: re.split(r" {2,}", line) for line in lines if "/seed" in line}
    rest = [line for line in lines if "/seed" not in line]
    return {name.rpartition("/")[2]: cells[1:] for name, cells in rows.items()} | {"": rest}


def test_main__every_state(
    folder: MakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done(folder, 0, job="14_0")
    running = folder(1, "config.yaml", job="14_1")
    noted = {"step": 995, "steps": 1000, "images_per_second": 41.6, "seconds_left": 3725.4}
    write_json(running / "progress.json", noted)
    folder(2, job="14_2")
    folder(3, "config.yaml", error="loss is nan at step 7", job="14_3")
    folder(4, "config.yaml", job="14_4")
    folder(5)
    fake_squeue(tmp_path, "14_1|RUNNING|None", "14_2|PENDING|Priority")
    with exclusive(running, print):
        assert main(["runs"]) == 1
    found = lines_of(capsys.readouterr().out)
    log = "logs/14_{}.out"
    assert found == {
        "seed0": ["done", "100%", "1/1", "-", "-", "14_0", log.format(0), "-"],
        "seed1": ["running", "99%", "0/1", "42", "1:02:05", "14_1", log.format(1), "-"],
        "seed2": ["queued", "0%", "0/1", "-", "-", "14_2", log.format(2), "PENDING Priority"],
        "seed3": ["failed", "0%", "0/1", "-", "-", "14_3", log.format(3), "loss is nan at step 7"],
        "seed4": ["stale", "0%", "0/1", "-", "-", "14_4", log.format(4), "nobody is at work"],
        "seed5": ["queued", "0%", "0/1", "-", "-", "-", "-", "-"],
        "": ["6 runs: 1 done, 1 running, 2 queued, 1 failed, 1 stale"],
    }  # fmt: skip


def test_main__exit_status(folder: MakeFolder) -> None:
    done(folder, 0)
    assert main(["runs"]) == 0
    queued = folder(1)
    assert main(["runs"]) == 3
    with exclusive(queued, print):
        assert main(["runs"]) == 3
    folder(2, error="no")
    assert main(["runs"]) == 1
    assert main(["runs", "--json"]) == 1
    (queued.parent / "seed2" / "error.txt").unlink()
    assert main(["runs"]) == 3
    folder(2, "config.yaml")
    assert main(["runs"]) == 1


@pytest.mark.parametrize("given", ["runs/gone", "file", "bin"])
def test_main__a_wrong_folder_is_one_sentence(
    given: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    for more in ([], ["--watch"], ["--json"]):
        assert main([given, *more]) == 2
        told = capsys.readouterr()
        assert told.out == ""
        assert told.err.startswith(f"error: {given} ")
        assert told.err.count("\n") == 1


@pytest.mark.parametrize("interval", ["0", "-1", "nan", "soon", "1e9"])
def test_main__a_wrong_interval(
    interval: str, folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    folder(0)
    with pytest.raises(SystemExit, match="2"):
        main(["runs", "--watch", "--interval", interval])
    assert interval in capsys.readouterr().err


def test_main__slurm_down_is_told_if_a_job_is_unfinished(
    folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    done(folder, 0, job="14_0")
    folder(1)
    main(["runs"])
    assert "SLURM" not in capsys.readouterr().out
    folder(2, job="14_2")
    assert main(["runs"]) == 3
    found = lines_of(capsys.readouterr().out)
    assert found["seed2"][0] == "queued"
    told = "SLURM cannot be asked (squeue cannot be started: No such file or directory)"
    assert found[""][1].startswith(told)


def test_main__squeue_is_called_once_and_only_for_jobs(folder: MakeFolder, tmp_path: Path) -> None:
    script = tmp_path / "bin" / "squeue"
    script.write_text(f"#!/bin/sh\necho called >> {tmp_path}/calls\n")
    script.chmod(0o755)
    folder(0)
    main(["runs"])
    assert not (tmp_path / "calls").exists()
    for seed in range(4):
        folder(seed, job=f"14_{seed}")
    main(["runs"])
    assert (tmp_path / "calls").read_text() == "called\n"


def test_main__broken_files_end_no_table(
    folder: MakeFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    done(folder, 0)
    (folder(1) / "plan.json").write_text("{")
    (folder(2) / "jobs.json").write_text("[]")
    (folder(3) / "progress.json").write_text("3")
    (folder(4, error="x") / "error.txt").write_bytes(b"\x1b[31mred \xff\x00[bold]\n")
    assert main(["runs"]) == 1
    out = capsys.readouterr().out
    found = lines_of(out)
    assert found["seed0"][0] == "done"
    for seed, file in ((1, "plan.json"), (2, "jobs.json"), (3, "progress.json")):
        assert found[f"seed{seed}"][0] == "failed"
        assert file in found[f"seed{seed}"][-1]
    assert found["seed4"][-1] == "[31mred � [bold]"
    assert found[""] == ["5 runs: 1 done, 4 failed"]


def test_main__json(folder: MakeFolder, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = done(folder, 0), folder(1, job="19", error="what is wrong")
    assert main(["runs", "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["totals"] == {"done": 1, "failed": 1}
    assert "squeue" in found["slurm_unknown"]
    ready, failed = found["runs"]
    assert Path(ready["folder"]).resolve() == first
    assert Path(failed["folder"]).resolve() == second
    wanted = {"state": "failed", "message": "what is wrong", "job": "19", "in_queue": None}
    assert failed.items() >= wanted.items()
    assert (ready["progress"], ready["tasks_done"], ready["tasks"]) == (1.0, 1, 1)


def test_command__plain_without_a_terminal_cuts_nothing(folder: MakeFolder) -> None:
    reason = "a long reason " * 30 + "that ends here"
    folder(0, error=reason)
    environment = {**os.environ, "COLUMNS": "40", "TERM": "xterm"}
    found = subprocess.run(
        [*COMMAND, "runs"], capture_output=True, text=True, check=False, env=environment
    )
    assert (found.returncode, found.stderr) == (1, "")
    assert f"  {reason}\n" in found.stdout


def test_command__imports_little(folder: MakeFolder) -> None:
    folder(0)
    code = (
        "import sys; from slurm.status import main; assert main(['runs']) == 3;"
        "assert not sys.modules.keys() & {'torch', 'pandas', 'yaml', 'numpy', 'hydra', 'submitit'}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_command__a_reader_that_leaves_early_is_no_error(folder: MakeFolder) -> None:
    for seed in range(30):
        folder(seed, error="x" * 10_000)
    with subprocess.Popen(
        [*COMMAND, "runs"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("run ")
        process.stdout.close()
        assert process.stderr.read() == ""


def test_command__watch_ends_when_all_is_done(folder: MakeFolder) -> None:
    done(folder, 0)
    run = folder(1, *TRAINED)
    with exclusive(run / "results" / "knn", print):
        watching = subprocess.Popen(
            [*COMMAND, "runs", "--watch", "--interval", "0.1"], stdout=subprocess.PIPE, text=True
        )
        assert watching.stdout is not None
        assert watching.stdout.readline().endswith(" 2 runs: 1 done, 1 running\n")
        write_json(run / "results" / "knn" / "seed0.json", {})
    first, _, *table = watching.communicate(timeout=60)[0].splitlines()
    assert first.endswith(" 2 runs: 2 done")
    assert lines_of("\n".join(["", *table]))["seed1"][:3] == ["done", "100%", "1/1"]
    assert watching.returncode == 0


def test_watch__a_moment_between_two_tasks_does_not_end_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    states: list[State] = ["running", "stale", "queued", "failed", "running", "stale", "stale"]
    looks = iter([Look([RunState(Path("run"), state)], None) for state in states])
    assert watch(lambda: next(looks), 0.0).status == 1
    assert next(looks, None) is None
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == states[:-1]


def test_command__watch_ends_when_somebody_is_needed(folder: MakeFolder) -> None:
    folder(0, error="no")
    found = subprocess.run([*COMMAND, "runs", "--watch", "--interval", "0.1"], check=False)
    assert found.returncode == 1


def in_terminal(arguments: list[str], until: str = "", **variables: str) -> tuple[str, int]:
    """Run the command in a terminal; returns what it shows and its exit status.

    Args:
        until: end it as by Ctrl-C once this is shown.
    """
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120", **variables}
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdout=theirs,
        stdin=theirs,
        stderr=theirs,
        env=environment,
        # A shell has it ignored in what it starts in the background, these tests for instance.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours, 65536)
        except OSError:  # its end is closed
            break
        if until and until.encode() in shown:
            process.send_signal(2)
            until = ""
    os.close(ours)
    return shown.decode(), process.wait()


def test_command__a_table_in_a_terminal(folder: MakeFolder) -> None:
    done(folder, 0)
    folder(1, error="[bold]no[/bold] [/x]")
    shown, status = in_terminal(["runs"])
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    assert status == 1
    assert "scenes/adios-0123abcd/seed0" in plain
    assert "[bold]no[/bold] [/x]" in plain
    assert "2 runs: 1 done, 1 failed" in plain


def test_command__watch_in_a_low_terminal_shows_first_what_moves(folder: MakeFolder) -> None:
    for seed in range(20):
        done(folder, seed)
    with exclusive(folder(20), print):
        shown, status = in_terminal(
            ["runs", "--watch", "--interval", "0.1"], until="more", LINES="12"
        )
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown)
    frame = plain[: plain.index(" more")].splitlines()
    assert status == 130
    assert frame[0] == "21 runs: 20 done, 1 running"
    assert frame[2].split()[:2] == ["scenes/adios-0123abcd/seed20", "running"]
    shown_runs = sum("/seed" in line for line in frame)
    assert 1 < shown_runs < 12
    assert frame[-1] == f"... and {21 - shown_runs}"
