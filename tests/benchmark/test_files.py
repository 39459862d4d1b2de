from __future__ import annotations

import io
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from benchmark.files import clear_leftovers, read_json, write_atomically, write_json
from benchmark.progress import Display, Event


def test_write_atomically__a_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, {"a": 1})

    def fail(part: Path) -> None:
        part.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left on device") as raised:
        write_atomically(path, fail)
    assert raised.value.filename == str(path)  # which the system does not tell
    assert read_json(path) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


WRITERS = {
    "arrays": """
import numpy as np
from benchmark.array_file import write_arrays
write = lambda: write_arrays(folder / "x.npz", {"x": np.random.bytes(8192)})
""",
    "encoder": """
from torch import nn
from benchmark.checkpoint import save_encoder
write = lambda: save_encoder(folder / "x.safetensors", nn.Linear(64, 64))
""",
    "text": """
from benchmark.files import write_text
write = lambda: write_text(folder / "x.txt", "x" * 8192)
""",
    "trace": """
import torch
from benchmark.files import write_atomically
with torch.profiler.profile() as profile:
    torch.ones(1).add(1)
trace = profile.export_chrome_trace
write = lambda: write_atomically(folder / "x.json", lambda part: trace(str(part)))
""",
}


@pytest.mark.parametrize("writer", WRITERS)
def test_write_atomically__killed_in_the_middle_leaves_nothing_for_good(
    writer: str, tmp_path: Path
) -> None:
    """By the system, where a file gets larger than it may."""
    script = f"""
import resource, signal, sys
from pathlib import Path
folder = Path(sys.argv[1])
{WRITERS[writer]}
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
write()
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGXFSZ
    (left,) = tmp_path.iterdir()
    assert 0 < left.stat().st_size <= 1024
    clear_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())


def test_write_json__refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"a": '])
def test_read_json__names_a_broken_file(content: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"result\.json .*delete it"):
        read_json(path)


def events(run: str) -> list[Event]:
    training = [Event(run, f"epoch 1/2  loss {s}", s, 4, epoch_ended=s == 2) for s in range(1, 4)]
    return [*training, Event(run, "done", finished=True)]


def test_display__without_a_terminal_one_line_per_epoch() -> None:
    out = io.StringIO()
    with Display(Console(file=out)) as display:
        for event in events("a/seed0"):
            display.show(event)
    assert out.getvalue().splitlines() == ["[a/seed0] epoch 1/2  loss 2", "[a/seed0] done"]


def test_display__in_a_terminal_a_bar_per_run_at_work() -> None:
    out = io.StringIO()
    with Display(Console(file=out, force_terminal=True, width=120, highlight=False)) as display:
        for event in events("a/seed0")[:3] + events("b/seed0"):
            display.show(event)
        display._progress.refresh()
        (bar,) = display._progress.tasks
        assert bar.fields == {"run": "a/seed0", "text": "epoch 1/2  loss 3"}
        assert (bar.completed, bar.total) == (3, 4)
    assert "epoch 1/2  loss 3" in out.getvalue()
    assert "[b/seed0] done" in out.getvalue()
