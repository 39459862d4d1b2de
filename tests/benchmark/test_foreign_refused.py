from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from benchmark.checkpoint import save_encoder
from benchmark.encoders import ResNet
from benchmark.errors import UserError
from benchmark.foreign import FORMATS, load_foreign
from benchmark.timm_encoder import TimmEncoder

VIT: dict[str, Any] = {"img_size": 32, "patch_size": 8, "depth": 2}
ViT = "vit_tiny_patch16_224"


def kept(encoder: nn.Module, path: Path, format: str, match: str) -> str:
    """The sentence of a refusal that leaves the encoder alone."""
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(UserError, match=match) as caught:
        load_foreign(path, format, encoder)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    return str(caught.value)


def ours(path: Path, depth: int = 18, prefix: str = "", **settings: Any) -> Path:
    state = ResNet(depth, 8, **settings).state_dict()
    torch.save({prefix + key: value for key, value in state.items()}, path)
    return path


@pytest.mark.parametrize("format", ["solo-learn", "adios"])
def test_load__refuses_a_stem_of_other_stride_or_padding(format: str, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    prefix = FORMATS[format].prefixes[-1]
    ours(path, prefix=prefix, stem="small", stem_padding=2)
    load_foreign(path, format, ResNet(18, 8, stem="small", stem_padding=2))
    remedy = r"set encoder.stem=small encoder.stem_padding=2"
    kept(ResNet(18, 8, stem="small"), path, format, f"stride 1 and padding 1; {remedy}")
    strided = ResNet(18, 8, stem="small", stem_padding=2)
    strided.conv1.stride = (2, 2)
    kept(strided, path, format, f"stride 2 and padding 2; {remedy}")
    kept(ResNet(18, 8, stem="stride2"), path, format, f"stride 2 and padding 1; {remedy}")


def test_load__lists_mismatching_keys_and_what_would_fit(tmp_path: Path) -> None:
    encoder = ResNet(18, 8)
    small = ours(tmp_path / "a", stem="small", stem_padding=2, prefix="backbone.")
    assert kept(encoder, small, "solo-learn", "does not fit") == (
        f"checkpoint={small} does not fit the encoder: conv1.weight is 8x3x3x3 in the file and "
        "8x3x7x7 in the encoder; set encoder=resnet18 encoder.width=8 encoder.stem=small "
        "encoder.stem_padding=2 format=solo-learn"
    )
    match = (
        r"layer1.0.conv1.weight is 8x8x1x1 in the file and 8x8x3x3 in the encoder, the encoder has "
        r"no layer1.0.conv3.weight, .* and \d+ more; "
        "set encoder=resnet50 encoder.width=8 encoder.stem=imagenet format=torchvision$"
    )
    kept(encoder, ours(tmp_path / "b", 50), "torchvision", match)


def test_load__every_kind_of_mismatch_alone_and_in_turn(tmp_path: Path) -> None:
    encoder, path = ResNet(18, 8), tmp_path / "a"
    wrong = {"bn1.weight": torch.zeros(9), "layer4.1.bn2.bias": torch.zeros(())}
    surplus = {"extra.bias": torch.zeros(8), "more.bias": torch.zeros(8)}
    lacking = encoder.state_dict()
    del lacking["layer4.1.bn2.running_mean"]
    said = {
        "bn1.weight is 9 in the file and 8 in the encoder, layer4.1.bn2.bias is one number": wrong,
        "the file lacks layer4.1.bn2.running_mean": {},
        "the encoder has no extra.bias, the encoder has no more.bias": surplus,
    }
    for match, change in said.items():
        torch.save((encoder.state_dict() if change else lacking) | change, path)
        kept(encoder, path, "torchvision", f"fit the encoder: {match}.*; choose the encoder")
    torch.save(lacking | wrong | surplus | {"last.bias": torch.zeros(8)}, path)
    match = (
        "bn1.weight is 9 .*, the file lacks layer4.1.bn2.running_mean, the encoder has no extra.bi"
        "as, layer4.1.bn2.bias is one number .*, the encoder has no more.bias and 1 more; choose"
    )
    kept(encoder, path, "torchvision", match)


def test_load__says_which_format_fits(tmp_path: Path) -> None:
    encoder = ResNet(18, 8)
    backbone = ours(tmp_path / "a", prefix="backbone.")
    match = "no weights of format=adios, which begin with 'encoder.', but backbone.conv1.w.*more; "
    kept(encoder, backbone, "adios", match + "set format=solo-learn$")
    kept(encoder, backbone, "torchvision", "file lacks conv1.*no backbone.* set format=solo-learn$")
    plain = ours(tmp_path / "b")
    kept(encoder, plain, "solo-learn", "begin with 'backbone.' or 'enc.* set format=torchvision$")
    kept(ResNet(34, 8), backbone, "adios", "encoder=resnet18 encoder.width=8 .*format=solo-learn$")
    kept(encoder, plain, "dino", "format=dino is not one of torchvision, timm, solo-learn, adios")


def test_load__a_transformer_of_another_size(tmp_path: Path) -> None:
    state = timm.create_model(ViT, depth=2).state_dict()
    torch.save(state, tmp_path / "vit.pth")
    match = r"pos_embed is 1x197x192 in the file and 1x17x192 in.* patch and image size if it is"
    kept(TimmEncoder(ViT, 32, VIT), tmp_path / "vit.pth", "timm", match)
    kept(ResNet(18, 8), tmp_path / "vit.pth", "timm", "file lacks conv1.weight.* no cls_token")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("name", ["layer3.0.conv1.weight", "bn1.running_var"])
def test_load__refuses_values_that_are_not_finite(name: str, value: float, tmp_path: Path) -> None:
    encoder = ResNet(18, 8)
    state = {key: tensor.clone() for key, tensor in encoder.state_dict().items()}
    state[name].view(-1)[3] = value
    torch.save(state, tmp_path / "a.pth")
    kept(encoder, tmp_path / "a.pth", "torchvision", f"has NaN or infinity in {name}; ")


class Command:
    def __reduce__(self) -> tuple:
        return os.mkdir, ("executed",)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (Command(), "posix.mkdir"),
        (nn.Linear(2, 2), r"torch.nn.modules.linear.Linear"),
        ({"callbacks": {Callable: 1}, "state_dict": {}}, "collections.abc.Callable"),
    ],
)
def test_load__refuses_what_could_execute_code(
    content: Any, named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file, new in (("new.pth", True), ("old.pth", False)):
        torch.save(content, file, _use_new_zipfile_serialization=new)
        match = rf"needs {named} and not only weights.*if you trust it, .*\['state_dict'\], NEW_"
        kept(ResNet(18, 8), Path(file), "torchvision", match)
    assert not Path("executed").exists()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"epoch": 3, "net": {"conv1.weight": torch.zeros(1)}}, "no state_dict, .*but epoch, net;"),
        ({}, "but nothing; save"),
        ([torch.zeros(1)], "holds no state_dict but a list"),
        (torch.zeros(1), "holds no state_dict but a Tensor"),
    ],
)
def test_load__refuses_files_without_state_dict(content: Any, match: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    kept(ResNet(18, 8), tmp_path / "a.pth", "torchvision", match)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
def test_load__refuses_files_that_are_missing_or_broken(tmp_path: Path) -> None:
    encoder = ResNet(18, 8)
    kept(encoder, tmp_path / "none.pth", "timm", "none.pth is no file; give the path")
    kept(encoder, tmp_path, "timm", "is no file; give the path")
    torch.save(encoder.state_dict(), tmp_path / "new")
    torch.save(encoder.state_dict(), tmp_path / "old", _use_new_zipfile_serialization=False)
    save_encoder(tmp_path / "tensors", encoder)
    broken = {"text.pth": b"version https://", "empty.pth": b"", "empty.safetensors": b""}
    broken["pickle.pth"] = pickle.dumps({"a": 1}, protocol=4)
    for name in ("new", "old", "tensors"):
        whole = (tmp_path / name).read_bytes()
        suffix = ".safetensors" if name == "tensors" else ".pth"
        broken |= {f"{n}{suffix}": whole[:n] for n in (4, 100, 1000, 100_000, len(whole) - 1)}
        for file, content in broken.items():
            (tmp_path / file).write_bytes(content)
            match = rf"{file} of {len(content)} bytes cannot be read \(\w+.*\); copy it again"
            kept(encoder, tmp_path / file, "torchvision", match)
