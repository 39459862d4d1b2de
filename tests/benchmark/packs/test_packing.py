"""Making packs in their place: one process at a time, after kills, whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from benchmark.errors import UserError
from benchmark.lock import exclusive, remove_held
from benchmark.packs.manifest import Recipe
from benchmark.packs.pack import Pack
from benchmark.sources.folder import Folder


def test_prepare__is_there_already(pets):
    assert pets.make()
    assert len(pets.reads) == pets.count
    assert not pets.make()
    assert len(pets.reads) == pets.count
    assert pets.make(replace=True)
    assert len(pets.reads) == 2 * pets.count
    assert [path.name for path in pets.packs.iterdir()] == ["pets"]


def test_prepare__other_settings_need_replace(pets):
    pets.make()
    other = Recipe("pets", pets.packs, Folder(["train", "test"]), 4)
    pets.refused("pets was made with data.stored_size=8 where 4 is asked for; choose", other)
    assert pets.make(other, replace=True)
    assert np.load(other.folder / "images.npy").shape == (pets.count, 3, 4, 4)


def test_prepare__what_is_no_pack_is_left_alone(pets):
    wanted = pets.recipe()
    (wanted.folder / "precious").mkdir(parents=True)
    pets.refused("pets exists and is no pack; choose another", replace=True)
    assert (wanted.folder / "precious").exists()


def test_prepare__a_damaged_pack_needs_replace(pets):
    pets.make()
    images = pets.recipe().folder / "images.npy"
    os.truncate(images, 500)
    pets.refused(f"{images} cannot be used because it is 500 bytes long .* replace=true")
    assert pets.make(replace=True)
    assert [*Pack(images.parent).changes()] == []


def test_prepare__a_wrong_source_leaves_nothing(pets):
    shutil.rmtree(pets.source / "test")
    pets.refused(r"has no folder test for that split; .*data.source.splits=\[...\]")
    assert not pets.packs.exists()


@pytest.mark.parametrize("change", ["content", "name", "new file", "removed", "settings"])
def test_prepare__what_has_changed_is_read_again(pets, change):
    """Other contents or names are a matter of their chunks, another count is one of all."""
    pets.stop(6)  # of 37 images, 7 of them in the chunk of the changed one
    pets.reads.clear()
    wanted, count = pets.recipe(), pets.count
    first = pets.source / "train/cat/000.png"
    if change == "content":
        Image.new("RGB", (10, 12), "red").save(first)
        count -= 37 - 7
    elif change == "name":
        first.rename(first.with_name("0004.png"))  # still the first
        count -= 37 - 7
    elif change == "new file":
        shutil.copy(first, first.with_name("zzz.png"))
        count += 1
    elif change == "removed":
        first.unlink()
        count -= 1
    else:
        wanted = pets.recipe(on_bad_image="skip")
    pets.make(wanted)
    assert len(pets.reads) == count
    pets.make(fresh := Recipe("fresh", wanted.data_dir, wanted.source, 8))
    for name in ("images.npy", "labels.npy"):
        assert (wanted.folder / name).read_bytes() == (fresh.folder / name).read_bytes()


def test_prepare__killed_and_run_again(pets):
    code = (
        "import sys; from pathlib import Path; from benchmark.packs import journal, packing\n"
        "from benchmark.packs.manifest import Recipe; from benchmark.sources.folder import Folder\n"
        "journal._CHUNK_IMAGES = 7\n"
        f"source = Path({str(pets.source)!r})\n"
        "recipe = Recipe('pets', source.parent / 'packs', Folder(['train', 'test']), 8)\n"
        "emit = lambda event: event.step and (print(event.step, flush=True), input())\n"
        "packing.prepare(recipe, source, workers=2, trust=False, replace=False, emit=emit)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    for _ in range(2):
        assert process.stdout.readline()
        process.stdin.write("\n")
        process.stdin.flush()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not pets.recipe().folder.exists()
    pets.make()
    assert (
        pets.count - 4 * 7 <= len(pets.reads) <= pets.count - 2 * 7
    )  # two or three chunks were done
    pets.make(pets.recipe("whole"))
    for name in ("images.npy", "labels.npy"):
        assert (pets.recipe().folder / name).read_bytes() == (
            pets.recipe("whole").folder / name
        ).read_bytes()


def test_prepare__the_second_at_once_waits(pets):
    held, waiting = threading.Event(), threading.Event()
    told = []

    def first(event):
        if event.step is not None:
            held.set()
            assert waiting.wait(20)

    def second(event):
        told.append(event.text)
        waiting.set()

    made = {}
    threads = [
        threading.Thread(target=lambda: made.update(first=pets.make(emit=first))),
        threading.Thread(target=lambda: made.update(second=pets.make(emit=second, replace=True))),
    ]
    threads[0].start()
    assert held.wait(20)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert made == {"first": True, "second": False}
    (words,) = told
    assert re.fullmatch(r"process \d+ on .* is making this pack; waiting for it", words)
    assert len(pets.reads) == pets.count
    assert [path.name for path in pets.packs.iterdir()] == ["pets"]


def test_prepare__waiting_for_one_that_fails(pets):
    """The one that has waited does its own work, and fails likewise."""
    pets.make()
    (pets.source / "train/cat/000.png").write_bytes(b"")
    held, waiting = threading.Event(), threading.Event()

    def first(event):
        held.set()
        assert waiting.wait(20)

    failures = []

    def attempt(emit):
        try:
            pets.make(emit=emit, replace=True)
        except UserError as error:
            failures.append(str(error))

    threads = [
        threading.Thread(target=attempt, args=(emit,))
        for emit in (first, lambda event: waiting.set())
    ]
    threads[0].start()
    assert held.wait(20)
    threads[1].start()
    for thread in threads:
        thread.join()
    assert len(failures) == 2
    assert [*Pack(pets.recipe().folder).changes()] == []  # the old one is still there


def test_prepare__many_at_once(pets):
    wanted = pets.recipe()
    made = []
    threads = [threading.Thread(target=lambda: made.append(pets.make(wanted))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False] * 5 + [True]
    assert len(pets.reads) == pets.count
    assert [path.name for path in wanted.folder.parent.iterdir()] == ["pets"]


def test_prepare__what_a_kill_left_beside_a_finished_pack_goes(pets):
    pets.make()
    left = pets.packs / ".pets.partial/scratch"
    left.mkdir(parents=True)
    assert not pets.make()
    assert [path.name for path in pets.packs.iterdir()] == ["pets"]


def test_prepare__killed_between_taking_its_place_and_clearing_up(pets):
    pets.make()
    left = pets.packs / ".pets.partial/replaced"
    left.mkdir(parents=True)
    (left / "images.npy").write_bytes(b"old")
    assert pets.make(replace=True)
    assert [path.name for path in pets.packs.iterdir()] == ["pets"]
    assert [*Pack(pets.recipe().folder).changes()] == []


def test_prepare__data_dir_that_cannot_be_made(pets):
    pets.packs.write_text("in the way")
    pets.refused("/packs.*: (File exists|Not a directory); put that right")


def test_pack__opens_at_once(pets):
    pets.make()
    started = time.perf_counter()
    Pack(pets.recipe().folder)
    assert time.perf_counter() - started < 0.2


def test_prepare__source_that_is_also_the_data_dir(pets):
    wanted = Recipe("pets", pets.source, Folder(["train", "test"]), 8)
    pets.stop(3, wanted)
    pets.make(wanted)
    assert (pets.source / "pets/manifest.json").exists()
    assert {path.name for path in pets.source.iterdir()} == {"train", "test", "pets"}


def test_exclusive__one_that_waits_for_a_folder_that_goes_holds_the_next(tmp_path):
    folder, waiting, held, release = tmp_path / "a", *(threading.Event() for _ in range(3))

    def second():
        with exclusive(folder, lambda owner: waiting.set()):
            held.set()
            assert release.wait(20)

    thread = threading.Thread(target=second)
    with exclusive(folder, lambda owner: None):
        thread.start()
        assert waiting.wait(20)
        remove_held(folder)
        assert not folder.exists()
    assert held.wait(20)
    told = []

    def third(owner):
        told.append("waits")
        release.set()

    with exclusive(folder, third):
        assert told == ["waits"]
    thread.join()
