"""The suite of benchmarks, with parts that take no time."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import suite
from measure import Row, interleaved, print_rows, summary
from rich.console import Console

GOOD = """
import os
from measure import Row, summary

def rows():
    assert os.environ["MALLOC_MMAP_MAX_"] == "0"
    kept = [summary("speed", "ours", [2.0, 1.5, 12345.678], "img/s", "at least 1")]
    return [*kept, Row("speed", "on a GPU", None, "img/s", note="no GPU here")]
"""
PARTS = {
    "toy_good": GOOD,
    "toy_bad": "def rows():\n    raise RuntimeError('out of luck')\n",
    "toy_nan": (
        "from measure import Row\ndef rows():\n    return [Row('a', 'b', float('nan'), 's')]\n"
    ),
    "toy_killed": "import os, signal\ndef rows():\n    os.kill(os.getpid(), signal.SIGKILL)\n",
}


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    for name, code in PARTS.items():
        (tmp_path / f"{name}.py").write_text(code)
    return tmp_path


def test_run__table_and_json(
    parts: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "new" / "folder"
    assert suite.run(["toy_good"], out, folder=parts) == 0
    found = json.loads((out / "bench.json").read_text())
    assert found["rows"] == [
        {
            "part": "speed",
            "case": "ours",
            "value": 2.0,
            "unit": "img/s",
            "low": 1.5,
            "high": 12345.678,
            "note": "at least 1",
        },
        {
            "part": "speed",
            "case": "on a GPU",
            "value": None,
            "unit": "img/s",
            "low": None,
            "high": None,
            "note": "no GPU here",
        },
    ]
    assert found["failed"] == {}
    assert list(found["seconds"]) == ["toy_good"]
    assert {"processor", "cores", "torch", "GPU"} == found["machine"].keys()
    assert isinstance(found["dirty"], bool)
    shown = capfd.readouterr().out
    for word in ("speed", "ours", "1.5 to 12,346", "at least 1", "no GPU here", "bench.json"):
        assert word in shown
    for value in found["machine"].values():
        assert str(value) in " ".join(shown.split())


def test_run__a_part_that_fails_does_not_stop_the_others(
    parts: Path, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = ["toy_bad", "toy_nan", "toy_killed", "toy_good"]
    assert suite.run(line, tmp_path / "out", folder=parts) == 1
    shown = capfd.readouterr()
    assert "out of luck" in shown.err
    assert "error: toy_bad failed with exit status 1; see above" in shown.err
    assert "1.5 to 12,346" in shown.out
    found = json.loads((tmp_path / "out/bench.json").read_text())
    assert found["failed"] == {"toy_bad": "1", "toy_nan": "1", "toy_killed": "-9"}
    assert {row["part"] for row in found["rows"]} == {"speed"}


def test_main__chooses_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chosen = []
    monkeypatch.setattr(suite, "run", lambda parts, out: chosen.append((list(parts), out)) or 0)
    here = Path("bench")
    for line, expected in (
        ([], ([*suite.PARTS], here)),
        (["probe", "step"], (["probe", "step"], here)),
        (["--gpu"], (["step", "augmentation", "probe"], here)),
        (["--gpu", "startup", "step", "--out", str(tmp_path)], (["step"], tmp_path)),
    ):
        assert suite.main(line) == 0
        assert chosen.pop() == expected


def test_main__unknown_part(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        suite.main(["nonsense"])
    assert "unknown part nonsense; choose of step, augmentation" in capsys.readouterr().err


def test_parts__that_are_there_have_rows() -> None:
    for part in suite.PARTS:
        file = suite.HERE / f"{part}.py"
        assert "\ndef rows(" in file.read_text(), file


def test_interleaved__one_case_after_the_other_and_warm_up_apart() -> None:
    calls: list[str] = []
    cases = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = interleaved(cases, 3, warm_up=2)
    assert calls == [*"ab"] * 5
    assert {name: len(taken) for name, taken in seconds.items()} == {"a": 3, "b": 3}


def test_summary__median_and_range() -> None:
    assert summary("part", "case", [3.0, 1.0, 2.5], "s") == Row("part", "case", 2.5, "s", 1.0, 3.0)


def test_print_rows__names_a_part_once() -> None:
    text = io.StringIO()
    rows = [Row("speed", "one", 0.12345, "s"), Row("speed", "two", 98765.0, "s")]
    print_rows(rows, console=Console(file=text))
    assert text.getvalue().count("speed") == 1
    assert "0.123" in text.getvalue()
    assert "98,765" in text.getvalue()
