"""Somebody else's checkpoint as one of our encoders, so that it meets the same protocols."""

from __future__ import annotations

import re
import warnings
from argparse import Namespace
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product, zip_longest
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from omegaconf import DictConfig, ListConfig
from omegaconf.base import ContainerMetadata, Metadata
from omegaconf.nodes import AnyNode
from safetensors.torch import load_file
from torch import Tensor

from benchmark.contracts import Encoder
from benchmark.encoders import ResNet
from benchmark.errors import UserError

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Format:
    """How a code base names an encoder's weights in its checkpoints.

    Attributes:
        prefixes: what precedes the names; the first in use counts. All that has another one is a
            projector, predictor, teacher, mask net or classifier, and not wanted.
        stem_padding: padding of its ResNets' 3x3 stem, which has stride 1; None if it has none.
    """

    prefixes: tuple[str, ...] = ("",)
    stem_padding: int | None = None


FORMATS: Mapping[str, Format] = {
    "torchvision": Format(),
    "timm": Format(),
    "solo-learn": Format(("backbone.", "encoder."), stem_padding=2),  # encoder. before 1.0.5
    "adios": Format(("encoder.",), stem_padding=2),
}

# Under which key training scripts keep the weights. As in timm, a moving average comes first: it
# is what their accuracies are measured on.
_HOLDERS = ("state_dict_ema", "model_ema", "state_dict", "model")
# What DistributedDataParallel, AveragedModel and torch.compile put before every name.
_WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")
# Settings that training scripts write beside the weights: containers without code of their own.
_HARMLESS: list[Any] = [
    Namespace, DictConfig, ListConfig, ContainerMetadata, Metadata, AnyNode,
    Any, defaultdict, dict, int, list,
]  # fmt: skip
_LISTED = 5


def load_foreign(path: Path, format: str, encoder: Encoder) -> None:
    """Read the weights of a checkpoint into an encoder, all of them and nothing else.

    Classifiers are left out. Where a file holds a moving average of the weights too, as those of
    timm's training script, the average is taken. The counters of BatchNorm may be lacking, as in
    torchvision's oldest files; no result depends on them. Nothing in a file is executed.

    Args:
        path: written by ``torch.save``, by Lightning, or ending in ``.safetensors``.
        format: one of `FORMATS`.
        encoder: takes the weights; left as it is when the file is refused.

    Raises:
        UserError: if the format does not exist, if the file cannot be read without executing
            code or holds no weights, if these are not finite or not the encoder's by name and
            shape, and if the encoder's 3x3 stem is not the one that the format has.
    """
    if format not in FORMATS:
        raise UserError(f"format={format} is not one of {', '.join(FORMATS)}")
    state = _state_dict(path, _read(path))
    weights = _weights(state, FORMATS[format], _classifiers(encoder))
    if not weights:
        prefixes = " or ".join(repr(prefix) for prefix in FORMATS[format].prefixes)
        raise UserError(
            f"checkpoint={path} has no weights of format={format}, which begin with {prefixes}, "
            f"but {_listed(list(state))}; {_remedy(state, format, encoder)}"
        )
    if mismatches := _mismatches(weights, encoder):
        raise UserError(
            f"checkpoint={path} does not fit the encoder: {_listed(mismatches)}; "
            f"{_remedy(state, format, encoder)}"
        )
    for name, weight in weights.items():
        if not _is_plain(weight, counts=_counts(name)):
            raise UserError(
                f"checkpoint={path} has {name} as {weight.dtype}, {weight.layout} on "
                f"{weight.device}, where ordinary floating-point numbers are expected; save the "
                "state_dict of the net in full precision"
            )
        if not weight.float().isfinite().all():
            raise UserError(
                f"checkpoint={path} has NaN or infinity in {name}; give a checkpoint from before "
                "the training diverged"
            )
    _check_stem(encoder, format)
    counters = {k: torch.zeros_like(v) for k, v in encoder.state_dict().items() if _counts(k)}
    encoder.load_state_dict(counters | weights)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"checkpoint={path} is no file; give the path of a checkpoint")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(_HARMLESS), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # it is refused then
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # broken bytes raise whatever they happen to lead to
        needed = re.search(r"GLOBAL (\S+)", str(error))
        if isinstance(error, UnpicklingError) and needed:
            raise UserError(
                f"checkpoint={path} needs {_printable(needed[1])} and not only weights, and "
                "loading that could execute code; if you trust it, save its weights alone, where "
                "it was written, with "
                "torch.save(torch.load(FILE, weights_only=False)['state_dict'], NEW_FILE), or "
                "with .state_dict() in place of ['state_dict'] if it is a whole module"
            ) from error
        reason = " ".join(f"{type(error).__name__}: {error}".split()).partition(". ")[0]
        raise UserError(
            f"checkpoint={path} of {path.stat().st_size} bytes cannot be read "
            f"({_printable(reason)}); copy it again in whole, or save its state_dict with "
            "torch.save"
        ) from error


def _state_dict(path: Path, content: Any) -> Weights:
    """The tensors of a file by their names, without what wrappers put before these."""
    if not isinstance(content, dict):  # a DictConfig would look other things up when it is read
        raise UserError(
            f"checkpoint={path} holds no state_dict but a {type(content).__name__}; save the "
            "state_dict of the net with torch.save"
        )
    held = [content[key] for key in _HOLDERS if isinstance(content.get(key), dict)]
    state = held[0] if held else content
    weights = {
        _WRAPPERS.sub("", name): value
        for name, value in state.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }
    if not weights:
        raise UserError(
            f"checkpoint={path} holds no state_dict, neither at the top nor under "
            f"{', '.join(_HOLDERS)}, but {_listed([str(key) for key in content]) or 'nothing'}; "
            "save the state_dict of the net with torch.save"
        )
    return weights


def _classifiers(encoder: Encoder) -> tuple[str, ...]:
    # timm's nets tell; asking whether it is one of them would import timm, seconds in every run.
    net = getattr(encoder, "net", None)
    names: str | tuple[str, ...] = getattr(net, "pretrained_cfg", {}).get("classifier") or "fc"
    return (names,) if isinstance(names, str) else names


def _weights(state: Weights, layout: Format, classifiers: tuple[str, ...]) -> Weights:
    """The encoder's part of a state dict, under the encoder's names."""
    used = (p for p in layout.prefixes if any(name.startswith(p) for name in state))
    prefix = next(used, layout.prefixes[0])
    unwanted = (*(f"{name}." for name in classifiers), "n_averaged")  # a count of AveragedModel
    names = (name.removeprefix(prefix) for name in state if name.startswith(prefix))
    return {name: state[prefix + name] for name in names if not name.startswith(unwanted)}


def _is_plain(weight: Tensor, *, counts: bool) -> bool:
    """Whether a tensor is one of numbers in memory: not sparse, quantised or without values."""
    dense = weight.layout == torch.strided and weight.device.type == "cpu"
    return dense and not weight.is_quantized and (weight.is_floating_point() or counts)


def _counts(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def _mismatches(weights: Weights, encoder: Encoder) -> list[str]:
    """What keeps the weights from fitting; the three kinds take turns, so that each is seen."""
    own = encoder.state_dict()
    shapes = [
        f"{name} is {_shape(weight)} in the file and {_shape(own[name])} in the encoder"
        for name, weight in weights.items()
        if name in own and weight.shape != own[name].shape
    ]
    missing = [
        f"the file lacks {name}" for name in own if name not in weights and not _counts(name)
    ]
    surplus = [f"the encoder has no {name}" for name in weights if name not in own]
    return [m for turn in zip_longest(shapes, missing, surplus) for m in turn if m is not None]


def _shape(tensor: Tensor) -> str:
    return "x".join(str(size) for size in tensor.shape) or "one number"


def _printable(text: str) -> str:
    """Text of a file without what a terminal would take for commands."""
    return text if text.isprintable() else ascii(text)


def _listed(names: list[str]) -> str:
    rest = len(names) - _LISTED
    return ", ".join(map(_printable, names[:_LISTED])) + (f" and {rest} more" if rest > 0 else "")


def _remedy(state: Weights, format: str, encoder: Encoder) -> str:
    """Which settings the weights would fit, found by trying."""
    for name, layout in FORMATS.items():
        if not _mismatches(_weights(state, layout, _classifiers(encoder)), encoder):
            return f"set format={name}"
    for name in sorted(FORMATS, key=lambda name: name != format):  # the one asked for first
        weights = _weights(state, FORMATS[name], ("fc",))
        for settings, candidate in _resnets(weights, FORMATS[name]):
            if not _mismatches(weights, candidate):
                return f"set {settings} format={name}"
    return (
        "choose the encoder that it was made with, and its patch and image size if it is a "
        "transformer"
    )


def _resnets(weights: Weights, layout: Format) -> Iterator[tuple[str, ResNet]]:
    """The settings of all ResNets as wide as the weights, with nets that have no values."""
    first = weights.get("conv1.weight", torch.empty(0))
    if first.ndim != 4 or len(first) < 8:
        return
    stems = {"imagenet": 1, "small": layout.stem_padding or 1}
    for depth, (stem, padding) in product((18, 34, 50), stems.items()):
        with torch.device("meta"):
            net = ResNet(depth, len(first), stem, padding)
        settings = f"encoder=resnet{depth} encoder.width={len(first)} encoder.stem={stem}"
        yield settings + (f" encoder.stem_padding={padding}" if padding != 1 else ""), net


def _check_stem(encoder: Encoder, format: str) -> None:
    """Refuse a stem of the right shape that works otherwise: no weight would tell."""
    padding = FORMATS[format].stem_padding
    if padding is None or not isinstance(encoder, ResNet) or encoder.conv1.kernel_size != (3, 3):
        return
    if encoder.conv1.stride != (1, 1) or encoder.conv1.padding != (padding, padding):
        raise UserError(
            f"the 3x3 stem of format={format} has stride 1 and padding {padding}, that of the "
            f"encoder stride {encoder.conv1.stride[0]} and padding {encoder.conv1.padding[0]}; set "
            f"encoder.stem=small encoder.stem_padding={padding}"
        )
