"""What an archive of result sets says of itself: its version, its members, their checksums."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypedDict

from benchmark.files import json_text, parsed_json
from benchmark.type_check import misfit

ROOT = "maskbench-results"
MANIFEST = "MANIFEST.json"
VERSION = 1
LARGEST_TEXT = 16 << 20  # bytes of the manifest, and of each file that is read whole

_PART = r"\w[\w.-]*"
_FILES = (
    r"(?:plan|provenance|pretraining)\.json|config\.yaml|metrics\.jsonl|encoder\.safetensors"
    rf"|results/{_PART}/seed[0-9]+\.(?:json|npz)|masks/{_PART}\.npz|masks/steps/{_PART}\.npz"
)
_MEMBER = re.compile(rf"{ROOT}/(?P<run>{_PART}/{_PART}-[0-9a-f]{{8}}/seed[0-9]+)/(?:{_FILES})")
_CHECKSUM = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{7,64}")


class Entry(TypedDict):
    """What the manifest says of a member."""

    size: int
    sha256: str


class _Noted(TypedDict):
    version: int
    commit: str | None
    dirty: bool
    anonymous: bool
    runs: int
    members: dict[str, Entry]


@dataclass(frozen=True)
class Manifest:
    """What an archive says of itself.

    Attributes:
        commit: of the code that exported, None if not known.
        dirty: whether that had uncommitted changes.
        anonymous: whether hosts and absolute paths were taken out.
        members: by their names in the archive, sorted.
    """

    commit: str | None
    dirty: bool
    anonymous: bool
    members: Mapping[str, Entry]

    @property
    def runs(self) -> dict[str, list[str]]:
        """Members of each run folder, ``<data>/<method>-<hash8>/seed<k>``."""
        found: dict[str, list[str]] = {}
        for name in self.members:
            found.setdefault(run_of(name), []).append(name)
        return found

    @property
    def size(self) -> int:
        """Bytes that it unpacks to."""
        return sum(entry["size"] for entry in self.members.values())

    def text(self) -> bytes:
        """As it is written."""
        noted: _Noted = {
            "version": VERSION,
            "commit": self.commit,
            "dirty": self.dirty,
            "anonymous": self.anonymous,
            "runs": len(self.runs),
            "members": dict(self.members),
        }
        return json_text(dict(noted)).encode()


def is_member(name: str) -> bool:
    """Whether an archive may hold a file of that name."""
    return _MEMBER.fullmatch(name) is not None


def run_of(member: str) -> str:
    """The run folder of a member."""
    found = _MEMBER.fullmatch(member)
    assert found is not None
    return found["run"]


def parsed(text: bytes) -> Manifest:
    """Read what `Manifest.text` gives, whoever wrote it.

    Raises:
        ValueError: saying what is wrong with it.
    """
    if len(text) > LARGEST_TEXT:
        raise ValueError(f"it has {len(text):,} bytes, at most {LARGEST_TEXT:,} are read")
    found = parsed_json(text.decode())
    if fault := _fault(found):
        raise ValueError(fault)
    noted: _Noted = found
    about = (noted["commit"], noted["dirty"], noted["anonymous"])
    manifest = Manifest(*about, dict(sorted(noted["members"].items())))
    if len(manifest.runs) != noted["runs"]:
        raise ValueError(f"it names {len(manifest.runs)} runs and says {noted['runs']}")
    return manifest


def _fault(noted: Any) -> str | None:
    """What is wrong with what a manifest says, in words."""
    if isinstance(noted, dict) and noted.get("version") != VERSION:
        return f"its version is {noted.get('version')!r:.20} where {VERSION} can be read"
    if fault := misfit(noted, _Noted, "it"):
        return fault
    if noted["commit"] is not None and not _COMMIT.fullmatch(noted["commit"]):
        return f"its commit is {noted['commit']!r:.60}"
    for name, entry in noted["members"].items():
        if not is_member(name):
            return f"{name!r:.200} is no file of a run"
        if entry["size"] < 0 or not _CHECKSUM.fullmatch(entry["sha256"]):
            return f"{name} has the size {entry['size']} and the checksum {entry['sha256']!r:.80}"
        read_whole = name.endswith((".json", ".yaml"))
        if read_whole and entry["size"] > LARGEST_TEXT:
            return f"{name} has {entry['size']:,} bytes, at most {LARGEST_TEXT:,} are read"
    return None
