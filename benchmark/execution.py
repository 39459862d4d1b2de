"""How a step is executed: what a device does best, with the same numbers up to rounding."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import nn

from benchmark.errors import UserError

BRANCHES = ("auto", "loop", "batch")
COMPILE = ("auto", "off", "default", "reduce-overhead")

# Each way of calling an encoder is a graph of its own: clean or hidden views, number of views,
# with gradients or without, frozen or not. torch's limit of 8 is meant for graphs that multiply.
_GRAPHS = 64


@dataclass(frozen=True)
class Execution:
    """How steps run; changes nothing but rounding and speed.

    Attributes:
        branches: "loop" encodes the hidden views one after another, which keeps a CPU's caches
            warm; "batch" encodes them together, with BatchNorm for each view apart, which fills a
            GPU; "auto" is what is faster on the device.
        compile: mode of torch.compile for encoder, mask net and augmentation, in which
            "reduce-overhead" records CUDA graphs; "off"; "auto" is "default" on a GPU and "off" on
            a CPU, where it takes minutes and gains nothing.
        profile: write a trace of some steps, see `benchmark.profiling`.

    Raises:
        UserError: for values that there are not.
    """

    branches: str = "auto"
    compile: str = "auto"
    profile: bool = False

    def __post_init__(self) -> None:
        for key, allowed in (("branches", BRANCHES), ("compile", COMPILE)):
            if getattr(self, key) not in allowed:
                raise UserError(
                    f"trainer.{key}={getattr(self, key)} is not one of {', '.join(allowed)}"
                )

    def on(self, device: torch.device) -> Execution:
        """The same with what ``auto`` stands for on a device."""
        gpu = device.type == "cuda"
        branches, mode = ("batch", "default") if gpu else ("loop", "off")
        return replace(
            self,
            branches=branches if self.branches == "auto" else self.branches,
            compile=mode if self.compile == "auto" else self.compile,
        )

    def check(self, device: torch.device) -> None:
        """Refuse to compile where there is nothing to compile with.

        Raises:
            UserError: if no C compiler is found.
        """
        mode = self.on(device).compile
        compilers = filter(None, (os.environ.get("CC"), "cc", "gcc", "clang"))
        if mode != "off" and not any(map(shutil.which, compilers)):
            raise UserError(
                f"trainer.compile={mode} needs a C compiler, and none is on the path; install gcc "
                "or set trainer.compile=off"
            )


def compile_nets(nets: Iterable[nn.Module], mode: str) -> None:
    """Let nets be compiled at their first call; their parameters and names stay."""
    if mode == "off":
        return
    torch._dynamo.config.recompile_limit = _GRAPHS
    for net in nets:
        net.compile(mode=mode, dynamic=False)
