"""Texts of a run folder without what tells who trained, for a review that is double-blind."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from benchmark.files import json_text, parsed_json, read_json
from benchmark.runs import read_config

STAND_IN = "PATH"

# What leaves the working folder: /home/jane, ~jane/runs, ../jane/runs, file:///home/jane; not the
# slash of "top-1/top-5", and no address of the web. Names of folders may have spaces.
_PATH = re.compile(
    r"(?<![\w./~])(?<!https:)(?<!http:)(?:~[\w.-]*|(?:\.\./)*\.\.)?/+(?=[\w.~])[^,;\[\]{}()\"'=\n]*"
)
# Sections of config.yaml that name accounts, mail addresses and machines, and change no result.
_OF_A_LAB = ("slurm", "wandb")


def anonymised(file: Path) -> Path | bytes:
    """A file of a run folder without the host and without paths that leave the working folder.

    Returns:
        The file itself, if there is nothing to be taken out.

    Raises:
        ValueError: naming the file, if it is broken, so that nothing can be taken out.
        OSError: if it cannot be read.
    """
    if file.name == "config.yaml":
        _, config = read_config(file.parent)
        kept = {key: value for key, value in config.items() if key not in _OF_A_LAB}
        return yaml.safe_dump(_scrubbed(kept), sort_keys=False).encode()
    if file.name == "provenance.json":
        return json_text(_attempts(read_json(file))).encode()
    if file.suffix == ".json":
        content = read_json(file)
        return file if (clean := _scrubbed(content)) == content else json_text(clean).encode()
    if file.suffix == ".jsonl":
        try:
            lines = [parsed_json(line) for line in file.read_text("utf-8").splitlines()]
        except ValueError as error:
            raise ValueError(f"{file} is broken ({error}); train that run again") from error
        return file if _scrubbed(lines) == lines else "".join(map(_line, lines)).encode()
    return file


def _line(content: Any) -> str:
    return json.dumps(_scrubbed(content)) + "\n"


def _attempts(provenance: Any) -> Any:
    """Provenance without host; of commands, the script's name and what is no lab's own setting."""

    def of(key: str, value: Any) -> Any:
        if key == "host":
            return ""
        if key == "command" and isinstance(value, list):
            script, *arguments = map(str, value or [""])
            own = tuple(f"{section}." for section in _OF_A_LAB)
            kept = [a for a in arguments if not a.lstrip("+~").startswith(own)]
            return [Path(script).name, *map(_scrubbed, kept)]
        return walked(value)

    def walked(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: of(key, inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [walked(inner) for inner in value]
        return _scrubbed(value)

    return walked(provenance)


def _scrubbed(value: Any) -> Any:
    """The same with a stand-in for each path."""
    if isinstance(value, str):
        return _PATH.sub(STAND_IN, value)
    if isinstance(value, dict):
        return {_scrubbed(key): _scrubbed(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_scrubbed(inner) for inner in value]
    return value
