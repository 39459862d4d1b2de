"""Archives: where they are unpacked, and what is refused."""

import io
import re
import tarfile

import pytest

from benchmark.errors import UserError
from benchmark.sources.archives import unpack


def archive(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def refused(message, path, scratch):
    with pytest.raises(UserError) as caught:
        unpack(path, scratch)
    assert re.search(message, str(caught.value)), caught.value


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_unpack__leaves_nothing_of_an_interrupted_call(tmp_path, mode):
    path = archive(tmp_path / "a.tar", {"x/y.txt": b"new", "z": b""}, mode)
    scratch = tmp_path / "scratch"
    (scratch / "a.tar/x").mkdir(parents=True)
    (scratch / "a.tar/x/old").write_text("old")
    folder = unpack(path, scratch)
    assert folder == scratch / "a.tar"
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*")) == ["x", "x/y.txt", "z"]
    assert (folder / "x/y.txt").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["../outside", "x/../../../outside"])
def test_unpack__refuses_to_leave_its_folder(tmp_path, name):
    scratch = tmp_path / "scratch"
    path = archive(tmp_path / "a.tar", {"x/first": b"", name: b"x"})
    refused(r"a\.tar cannot be unpacked", path, scratch)
    assert not [*tmp_path.rglob("outside")]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_unpack__truncated_archive_is_named(tmp_path, mode):
    path = archive(tmp_path / "a.tar", {"x": bytes(range(256)) * 400}, mode)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    refused(f"{path} cannot be unpacked into {tmp_path} .* download it again", path, tmp_path)
    path.write_bytes(b"<html>404</html>")
    refused(f"{path} cannot be unpacked", path, tmp_path)
