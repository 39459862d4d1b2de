"""Packs data sets, once, into arrays that every run memory-maps.

    python benchmark/prepare.py data=NAME source=DIR [KEY=VALUE ...]
    python benchmark/prepare.py verify [data=NAME] [data_dir=DIR]
    python benchmark/prepare.py list [data_dir=DIR]

The first makes the pack of a data set from the files that its site distributes, which lie in DIR
and are only read; after an interruption, the same line goes on where it stopped. `verify` reads
every byte of one pack, or of all, and names what has changed; `list` tells which data sets there
are, which of them are packed, and what each of the others needs.

    data.KEY=VALUE   another setting of the data set, as for benchmark/run.py
    data_dir=DIR     where packs lie (MASKBENCH_DATA, or datasets)
    workers=N        processes (all cores)
    trust=true       go on where a checksum or a count is not the published one
    replace=true     make the pack anew, in place of the one that is there
"""

from __future__ import annotations

import difflib
import importlib.resources
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from benchmark.config import CONFIG_MODULE, compose, one_sentence
from benchmark.errors import UserError
from benchmark.instantiate import instantiate, target
from benchmark.packs.manifest import MANIFEST, DamagedPackError, Recipe
from benchmark.packs.opened import Pack
from benchmark.packs.packing import prepare
from benchmark.packs.workers import num_cores
from benchmark.progress import Display

# By name, as torch takes seconds to import and only opening a pack as a data set needs it.
_LOADER = "benchmark.packs.pack.load"
_KEYS = {
    "prepare": ("data", "data_dir", "source", "workers", "trust", "replace"),
    "verify": ("data", "data_dir"),
    "list": ("data_dir",),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status: 0, 1 if a pack is damaged, 2 for a user's mistake."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if not words or {"-h", "--help"} & set(words):
        print(__doc__.strip())
        return 0
    verb = words.pop(0) if words[0] in ("verify", "list") else "prepare"
    try:
        given = _settings(verb, words)
        if verb == "list":
            return _list(given)
        return _verify(given) if verb == "verify" else _prepare(given)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same line goes on from here", file=sys.stderr)
        return 130


def _settings(verb: str, words: Iterable[str]) -> dict[str, str]:
    """KEY=VALUE arguments as a dictionary."""
    given = {}
    for word in words:
        key, equals, value = word.partition("=")
        known = _KEYS[verb]
        choices = known if equals else [*known, "verify", "list"]
        if not (key in known or ("data" in known and key.startswith("data."))):
            near = [] if key in _KEYS["prepare"] else difflib.get_close_matches(key, choices, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"{verb} takes {', '.join(known)}"
            raise UserError(f"unknown key {key!r}; {hint}")
        if not equals:
            raise UserError(f"{key} has no value; write {key}=...")
        given[key] = value
    return given


def _prepare(given: dict[str, str]) -> int:
    workers = _count(given, "workers", num_cores())
    flags = {key: _flag(given, key) for key in ("trust", "replace")}
    node = _data_node(given)
    if not _is_packed(node):
        print(f"data={given['data']} needs no preparing")
        return 0
    recipe = _recipe(_plain(node))
    if "source" not in given:
        raise UserError(f"source=DIR is missing; give {recipe.source.expects}")
    started = time.monotonic()
    with Display() as display:
        source = Path(given["source"]).expanduser()
        made = prepare(recipe, source, workers=workers, emit=display.show, **flags)
    pack = Pack(recipe.folder)
    how = f"made in {time.monotonic() - started:.0f} s" if made else "is there already"
    print(f"{recipe.folder} {how}: {_contents(pack)}")
    skipped = [image for split in pack.manifest.splits.values() for image in split.skipped]
    if skipped:
        print(f"skipped {len(skipped)} unreadable images, first: {skipped[0]}", file=sys.stderr)
    return 0


def _verify(given: dict[str, str]) -> int:
    if "data" in given:
        node = _data_node(given)
        if not _is_packed(node):
            raise UserError(f"data={given['data']} has no pack; {_choices()}")
        folders = [_recipe(_plain(node)).folder]
        if not (folders[0] / MANIFEST).exists():
            raise UserError(
                f"{folders[0]} is no pack; make it with data={given['data']} source=DIR"
            )
    else:
        data_dir = _data_dir(given)
        folders = _packs_in(data_dir)
        if not folders:
            raise UserError(f"data_dir={data_dir} has no packs; make one with data=NAME source=DIR")
    damaged = False
    for folder in folders:
        problems = _problems(folder)
        for error in problems:
            remedy = "add replace=true to the line that made the pack"
            print(f"error: {error.file}: {error.problem}; {remedy}", file=sys.stderr)
        damaged |= bool(problems)
        if not problems:
            print(f"{folder} is as it was made: {_contents(Pack(folder))}")
    return 1 if damaged else 0


def _problems(folder: Path) -> list[DamagedPackError]:
    try:
        return [*Pack(folder).changes()]
    except DamagedPackError as error:
        return [error]


def _list(given: dict[str, str]) -> int:
    data_dir = _data_dir(given)
    table = Table(title=f"packs in {data_dir}", title_justify="left")
    for column in ("data", "pack"):
        table.add_column(column, no_wrap=True)
    table.add_column("contents, or what it needs")
    left = {folder.name: folder for folder in _packs_in(data_dir)}
    found = dict(left)
    for option, data in _options(data_dir):
        name = _pack_name(data)
        left.pop(name, None)
        table.add_row(option, *_standing(found.get(name), data))
    for folder in left.values():
        table.add_row("", *_standing(folder, None))
    Console().print(table)
    return 0


def _standing(folder: Path | None, data: DictConfig | None) -> tuple[str, str]:
    """Which pack there is and what is in it, or else what it is to be made from."""
    if folder is None:
        assert data is not None
        return "none", target(data.source).expects
    try:
        pack = Pack(folder)
    except DamagedPackError as error:
        return folder.name, f"damaged: {error.file.name}, {error.problem}"
    if data is None or OmegaConf.missing_keys(data):
        return folder.name, _contents(pack)
    mismatch = _recipe(_plain(data)).mismatch(pack.manifest)
    return folder.name, f"{mismatch}: {_contents(pack)}" if mismatch else _contents(pack)


def _contents(pack: Pack) -> str:
    size = sum(file.stat().st_size for file in pack.folder.iterdir())
    splits = ", ".join(f"{n} {s.stop - s.start:,}" for n, s in pack.manifest.splits.items())
    side = pack.manifest.stored_size
    return f"{len(pack):,} images ({splits}) of {side} px, {size / 1e6:,.0f} MB"


def _data_node(given: dict[str, str]) -> DictConfig:
    """The composed configuration of the data set."""
    if "data" not in given:
        raise UserError(f"data=NAME is missing; {_choices()}")
    overrides = [f"{key}={value}" for key, value in given.items() if key.startswith("data")]
    node: DictConfig = compose(overrides).data
    return node


def _is_packed(node: DictConfig) -> bool:
    """Whether the data set is read from a pack.

    Raises:
        UserError: if it is read by nothing.
    """
    if node.get("_target_") == _LOADER:
        return True
    target(node)  # refuses what is no node
    return False


def _plain(node: DictConfig) -> dict[str, Any]:
    with one_sentence():
        plain = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _recipe(node: dict[str, Any]) -> Recipe:
    """The part of a data set's configuration that decides its pack."""
    own = {field.name: node[field.name] for field in fields(Recipe) if field.name in node}
    own["name"] = _pack_name(node)
    recipe: Recipe = instantiate({"_target_": f"{Recipe.__module__}.{Recipe.__name__}", **own})
    return recipe


def _data_dir(given: dict[str, str]) -> Path:
    overrides = [f"{key}={value}" for key, value in given.items()]
    return Path(compose(overrides).data_dir).expanduser()


def _packs_in(data_dir: Path) -> list[Path]:
    """Folders of packs, and of what is left of them without a manifest."""
    files = [*data_dir.glob(f"[!.]*/{MANIFEST}"), *data_dir.glob("[!.]*/images.npy")]
    return sorted({file.parent for file in files})


def _pack_name(node: Mapping[str, Any]) -> str:
    return str(node.get("pack") or node["name"])


def _options(data_dir: Path) -> Iterator[tuple[str, DictConfig]]:
    """What ``data=`` may choose and is packed, each as its file is.

    Composing each with all other settings would take seconds.
    """
    folder = Path(str(importlib.resources.files(CONFIG_MODULE))) / "data"
    for file in sorted(folder.glob("*.yaml")):
        root = OmegaConf.create({"data": OmegaConf.load(file), "data_dir": str(data_dir)})
        if root.data.get("_target_") == _LOADER:
            yield file.stem, root.data


def _choices() -> str:
    return f"choose one of {', '.join(option for option, _ in _options(Path()))}"


def _count(given: dict[str, str], key: str, default: int) -> int:
    value = given.get(key, str(default))
    if not value.isdecimal() or int(value) < 1:
        raise UserError(f"{key}={value} must be a whole number of at least 1")
    return int(value)


def _flag(given: dict[str, str], key: str) -> bool:
    value = given.get(key, "false")
    if value not in ("true", "false"):
        raise UserError(f"{key}={value} must be true or false")
    return value == "true"


if __name__ == "__main__":
    sys.exit(main())
