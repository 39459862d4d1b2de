"""Number formats: where bf16 may be used and where it may not."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.contracts import UserError

PRECISIONS = ("fp32", "bf16")


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Context in which nets compute in ``precision``; weights stay in their own format.

    Raises:
        UserError: for an unknown precision.
    """
    if precision not in PRECISIONS:
        raise UserError(f"precision={precision} is not one of {', '.join(PRECISIONS)}")
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def full_precision(x: Tensor) -> Tensor:
    """At least float32: losses, penalties and masks are never computed in bf16."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
