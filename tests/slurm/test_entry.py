"""A call that can be pickled, made and made again; test_submit.py makes some in real jobs."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from slurm.entry import Entry


def test_entry__is_loaded_in_a_moment(tmp_path: Path) -> None:
    # Until it is, a signal is lost. Its arguments may need torch; they are loaded when it is made.
    import torch

    (tmp_path / "entry.pkl").write_bytes(pickle.dumps(Entry("slurm.jobs:run", torch.zeros(2))))
    code = (
        "import pickle, sys; entry = pickle.load(open('entry.pkl', 'rb'));"
        "print(*{'torch', 'numpy', 'hydra', 'benchmark'} & sys.modules.keys())"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.split() == []


@pytest.mark.parametrize(("returned", "status"), [("None", 0), ("True", 0), ("False", 1)])
def test_entry__exit_status_is_what_the_function_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, returned: str, status: int
) -> None:
    # As submitit does: load, listen, call. The module is where only this process finds it.
    (tmp_path / "plugin.py").write_text(f"def work(x):\n    assert x == 7\n    return {returned}\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "entry.pkl").write_bytes(pickle.dumps(Entry("plugin:work", 7)))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    code = (
        "import pickle, signal; entry = pickle.load(open('../entry.pkl', 'rb'));"
        "signal.signal(signal.SIGUSR2, print); entry.checkpoint().function()"
    )
    made = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, check=False)
    assert made.returncode == status


def test_entry__puts_the_submitting_path_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["/first", ""])
    assert Entry("plugin:work").path == ["/first", str(Path.cwd())]
