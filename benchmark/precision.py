"""Number formats: where bf16 may be used and where it may not."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.errors import UserError

PRECISIONS = ("fp32", "bf16")


def check_precision(precision: str) -> None:
    """Refuse a precision that there is not.

    Raises:
        UserError: for an unknown precision.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision={precision} is not one of {', '.join(PRECISIONS)}")


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Context in which nets compute in ``precision``; weights stay in their own format.

    Raises:
        UserError: for an unknown precision.
    """
    check_precision(precision)
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def native_precision(device: torch.device) -> str:
    """What ``auto`` stands for: bf16 where the device computes it, fp32 where it would emulate.

    Emulated bf16 makes training about ten times slower on a CPU.
    """
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if native else "fp32"


def full_precision(x: Tensor) -> Tensor:
    """At least float32: losses, penalties and masks are never computed in bf16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
