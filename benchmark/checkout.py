"""The commit of the suite's own code. No torch here: reports tell it too."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path


@cache
def git_state() -> tuple[str | None, bool]:
    """Commit of the suite's checkout, None outside one; whether tracked files have changes."""
    here = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=False
            )
        except FileNotFoundError:  # no git on this machine
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if not (here / ".git").exists():  # installed: do not report a repository around it
        return None, False
    commit = git("rev-parse", "HEAD")
    return commit, bool(commit and git("status", "--porcelain", "--untracked-files=no"))
