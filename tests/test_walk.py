"""The walk in docs/add_a_method.md, exactly as it stands there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def test_add_a_method__as_written(tmp_path: Path) -> None:
    blocks = BLOCK.findall((ROOT / "docs" / "add_a_method.md").read_text())
    files = {title: text for _, title, text in blocks if title}
    assert len(files) == 3
    for title, text in files.items():
        file = tmp_path / title
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (commands,) = [text for language, _, text in blocks if language == "bash"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-euc", commands], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
    (row,) = re.findall(
        r"^\| \+ Checkerboard.*$", (tmp_path / "runs/tables/table1.md").read_text(), re.M
    )
    assert re.search(r"\d+\.\d\d", row)
    (config,) = tmp_path.glob("runs/scenes/checkerboard-*/seed0/config.yaml")
    assert "my_masks.checkerboard.Checkerboard" in config.read_text()
