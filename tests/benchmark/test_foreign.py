from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from timm.utils import ModelEmaV2
from torch import Tensor, nn
from torchvision.models import resnet18, resnet34, resnet50

from benchmark.checkpoint import save_encoder
from benchmark.contracts import Encoder
from benchmark.encoders import ResNet
from benchmark.foreign import FORMATS, load_foreign
from benchmark.streams import seeded
from benchmark.timm_encoder import TimmEncoder

VIT: dict[str, Any] = {"img_size": 32, "patch_size": 8, "depth": 2}
ViT = "vit_tiny_patch16_224"
TEACHER = nn.ModuleDict({"conv1": nn.Conv2d(3, 64, 3), "patch_embed": nn.Conv2d(3, 192, 8)})


def images(size: int = 32) -> Tensor:
    return torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(0))


def trained(net: Callable[[], nn.Module], size: int = 32, seed: int = 1) -> nn.Module:
    """A net whose weights and BatchNorm statistics are those of nobody else."""
    with seeded(seed, "test/theirs"), torch.no_grad():
        theirs = net()
        for parameter in theirs.parameters():
            parameter += 0.02 * torch.randn(parameter.shape)
        theirs.train()(images(size))
    return theirs.eval()


def headless(net: nn.Module) -> nn.Module:
    net.fc = nn.Identity()
    return net


def cifar_resnet18() -> nn.Module:
    """The net of solo-learn and ADIOS for images of 32 pixels."""
    net = headless(resnet18())
    net.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=2, bias=False)
    net.maxpool = nn.Identity()
    return net


def lightning(state: dict[str, Tensor], version: str, **hyper_parameters: Any) -> dict[str, Any]:
    """What Lightning's trainer.save_checkpoint writes."""
    parameter = nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    return {
        "epoch": 399,
        "global_step": 39200,
        "pytorch-lightning_version": version,
        "state_dict": state,
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 400}}}},
        "callbacks": {},
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [scheduler.state_dict()],
        **hyper_parameters,
    }


def prefixed(**parts: nn.Module) -> dict[str, Tensor]:
    return {f"{p}.{k}": v for p, net in parts.items() for k, v in net.state_dict().items()}


def solo_learn(backbone: nn.Module) -> dict[str, Any]:
    """BYOL of solo-learn since it is configured by hydra."""
    projector = nn.Sequential(nn.Linear(512, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    state = prefixed(
        backbone=backbone,
        classifier=nn.Linear(512, 10),
        projector=projector,
        momentum_backbone=TEACHER,
        momentum_projector=projector,
        momentum_classifier=nn.Linear(512, 10),
        predictor=nn.Linear(4, 4),
    )
    cfg = OmegaConf.create(
        {"name": "byol", "data": {"dataset": "cifar10", "size": "${size}"}, "size": 32}
        | {"optimizer": {"lr": 1.0, "kwargs": {"clip_lr": True, "eta": 0.02}}, "debug": None}
        | {"augmentations": [{"crop_size": 32, "crop_scale": [0.2, 1.0]}]}
    )
    OmegaConf.set_struct(cfg, False)
    return lightning(
        state, "2.0.2", hparams_name="cfg", hyper_parameters=cfg, hparams_type=type(cfg)
    )


def old_solo_learn(encoder: nn.Module) -> dict[str, Any]:
    """SimCLR of solo-learn before version 1.0.5, configured by argparse."""
    state = prefixed(
        encoder=encoder, classifier=nn.Linear(512, 10), projector=nn.Sequential(nn.Linear(512, 8))
    )
    hyper_parameters = {"lr": 0.3, "lr_decay_steps": [60, 80], "args": Namespace(cifar=True)}
    return lightning(state, "1.4.7", hparams_name="kwargs", hyper_parameters=hyper_parameters)


def adios(encoder: nn.Module) -> dict[str, Any]:
    """BYOL of the ADIOS code."""
    unet = nn.Sequential(nn.Conv2d(3, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.ReLU())
    state = prefixed(
        encoder=encoder,
        classifier=nn.Linear(512, 10),
        projector=nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 4)),
        momentum_encoder=TEACHER,
        momentum_projector=nn.Linear(512, 4),
        predictor=nn.Linear(4, 4),
        mask_encoder=unet,
        mask_head=nn.Sequential(nn.Conv2d(8, 4, 1), nn.Softmax(dim=1)),
    )
    hyper_parameters = {"alpha_sparsity": 1.0, "N": 4, "extra_args": {"mask_lr": 0.01}}
    return lightning(state, "1.4.7", hparams_name="kwargs", hyper_parameters=hyper_parameters)


def same_features(encoder: nn.Module, theirs: nn.Module, size: int = 32) -> bool:
    with torch.no_grad():
        ours, expected = encoder.eval()(images(size)), theirs(images(size))
    return ours.shape == expected.shape and torch.allclose(ours, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("depth", "net"), [(18, resnet18), (34, resnet34), (50, resnet50)])
def test_load__torchvision_file(depth: int, net: Callable, tmp_path: Path) -> None:
    theirs = trained(net)
    torch.save(theirs.state_dict(), tmp_path / "resnet.pth")
    encoder = ResNet(depth)
    assert not same_features(encoder, headless(theirs))
    load_foreign(tmp_path / "resnet.pth", "torchvision", encoder)
    assert same_features(encoder, theirs)
    assert encoder.state_dict()["bn1.num_batches_tracked"] == 1


@pytest.mark.parametrize(
    "kind", ["before_1.6", "no_counters", "reference_script", "parallel", "compiled", "half"]
)
def test_load__torchvision_names_in_other_files(kind: str, tmp_path: Path) -> None:
    theirs, path = trained(resnet18), tmp_path / "file.pth"
    state = theirs.state_dict()
    if kind == "before_1.6":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif kind == "no_counters":
        torch.save({k: v for k, v in state.items() if "num_batches" not in k}, path)
    elif kind == "reference_script":
        average = torch.optim.swa_utils.AveragedModel(theirs)
        other = {key: torch.zeros_like(value) for key, value in state.items()}
        content = {"model": other, "model_ema": average.state_dict(), "args": Namespace(lr=0.5)}
        torch.save(content | {"optimizer": {}, "epoch": 3}, path)
    elif kind == "parallel":
        torch.save({"state_dict": nn.DataParallel(theirs).state_dict(), "arch": "resnet18"}, path)
    elif kind == "compiled":
        torch.save({f"_orig_mod.{key}": value for key, value in state.items()}, path)
    elif kind == "half":
        theirs.half().float()
        torch.save({key: value.half() for key, value in state.items()}, path)
    encoder = ResNet(18)
    load_foreign(path, "torchvision", encoder)
    assert same_features(encoder, headless(theirs))


@pytest.mark.parametrize(
    ("name", "args"),
    [
        (ViT, VIT),
        (ViT, VIT | {"global_pool": "avg"}),
        ("deit_tiny_distilled_patch16_224", VIT),  # two classifiers
        ("convnext_atto", {}),  # a norm beside the classifier
    ],
)
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_load__timm_file(name: str, args: dict[str, Any], suffix: str, tmp_path: Path) -> None:
    theirs = trained(lambda: timm.create_model(name, num_classes=10, **args))
    path = tmp_path / f"model.{suffix}"
    save = save_file if suffix == "safetensors" else torch.save
    save(theirs.state_dict(), path)
    encoder = TimmEncoder(name, 32, args)
    load_foreign(path, "timm", encoder)
    theirs.reset_classifier(0)  # type: ignore[operator]
    assert same_features(encoder, theirs)


def test_load__timm_training_script_gives_its_moving_average(tmp_path: Path) -> None:
    theirs = trained(lambda: timm.create_model(ViT, num_classes=10, **VIT))
    average = ModelEmaV2(trained(lambda: timm.create_model(ViT, num_classes=10, **VIT), seed=2))
    parallel = {f"module.{key}": value for key, value in theirs.state_dict().items()}
    content = {"epoch": 9, "arch": ViT, "state_dict": parallel, "version": 2, "metric": 71.5}
    content["args"] = Namespace(model=ViT, lr=0.1, mean=None, data_dir="x")
    encoder = TimmEncoder(ViT, 32, VIT)
    path = tmp_path / "model_best.pth.tar"
    torch.save(content, path)
    load_foreign(path, "timm", encoder)
    theirs.reset_classifier(0)  # type: ignore[operator]
    assert same_features(encoder, theirs)
    torch.save(content | {"state_dict_ema": average.module.state_dict()}, path)
    load_foreign(path, "timm", encoder)
    average.module.reset_classifier(0)
    assert same_features(encoder, average.module)


def test_load__timm_resnet_is_torchvision_resnet(tmp_path: Path) -> None:
    theirs = trained(lambda: timm.create_model("resnet18", num_classes=10))
    torch.save(theirs.state_dict(), tmp_path / "model.pth")
    encoder = ResNet(18)
    load_foreign(tmp_path / "model.pth", "timm", encoder)
    theirs.reset_classifier(0)  # type: ignore[operator]
    assert same_features(encoder, theirs)


@pytest.mark.parametrize(
    ("format", "file", "cifar"),
    [
        ("solo-learn", solo_learn, True),
        ("solo-learn", old_solo_learn, False),
        ("adios", adios, True),
    ],
)
def test_load__lightning_file(format: str, file: Callable, cifar: bool, tmp_path: Path) -> None:
    theirs = trained(cifar_resnet18 if cifar else lambda: headless(resnet18()))
    torch.save(file(theirs), tmp_path / "method-ep=399.ckpt")
    encoder = ResNet(18, stem="small", stem_padding=2) if cifar else ResNet(18)
    load_foreign(tmp_path / "method-ep=399.ckpt", format, encoder)
    assert same_features(encoder, theirs)


@pytest.mark.parametrize(("format", "file"), [("solo-learn", solo_learn), ("adios", adios)])
def test_load__lightning_file_of_a_transformer(format: str, file: Callable, tmp_path: Path) -> None:
    theirs = trained(lambda: timm.create_model(ViT, num_classes=0, **VIT))
    content = file(theirs)
    torch.save(content, tmp_path / "last.ckpt")
    state = {key: value.clone() for key, value in content["state_dict"].items()}
    save_file(state, tmp_path / "stripped.safetensors")
    for path in (tmp_path / "last.ckpt", tmp_path / "stripped.safetensors"):
        encoder = TimmEncoder(ViT, 32, VIT)
        load_foreign(path, format, encoder)
        assert same_features(encoder, theirs)


@pytest.mark.parametrize(("depth", "net"), [(18, resnet18), (50, resnet50)])
def test_export__loads_into_torchvision(depth: int, net: Callable, tmp_path: Path) -> None:
    encoder = trained(lambda: ResNet(depth))
    save_encoder(tmp_path / "encoder.safetensors", encoder)
    theirs = net(weights=None)
    theirs.fc = nn.Identity()
    theirs.load_state_dict(load_file(tmp_path / "encoder.safetensors"))
    assert same_features(encoder, theirs.eval())


def test_export__loads_into_timm(tmp_path: Path) -> None:
    encoder = trained(lambda: TimmEncoder(ViT, 32, VIT))
    save_encoder(tmp_path / "encoder.safetensors", encoder)
    theirs = timm.create_model(ViT, num_classes=0, **VIT)
    theirs.load_state_dict(load_file(tmp_path / "encoder.safetensors"))
    assert same_features(encoder, theirs.eval())


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_load__own_export(format: str, tmp_path: Path) -> None:
    source, encoder = ResNet(18, 8), ResNet(18, 8)
    state = {f"{FORMATS[format].prefixes[0]}{k}": v for k, v in source.state_dict().items()}
    save_file(state, tmp_path / "encoder.safetensors")
    load_foreign(tmp_path / "encoder.safetensors", format, encoder)
    assert isinstance(encoder, Encoder)
    assert same_features(encoder, source.eval())
