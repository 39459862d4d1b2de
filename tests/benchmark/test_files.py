from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from benchmark.files import read_json, write_atomically, write_json
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
