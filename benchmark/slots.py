"""What a step logs of its masks."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.contracts import Proposal

_BINARY = 0.1  # a mask value this close to 0 or 1 counts as binary


@torch.no_grad()
def slot_statistics(proposal: Proposal) -> dict[str, Tensor]:
    """Per slot: shares of pixels hidden, hidden by it and an earlier slot, near 0 or 1; budget."""
    masks = proposal.masks
    budgets = {} if proposal.budgets is None else {"slot_budget": proposal.budgets.mean(0)}
    earlier = masks.cumsum(1) - masks
    binary = (masks < _BINARY) | (masks > 1 - _BINARY)
    return {
        "slot_area": masks.mean((0, 2, 3)),
        "slot_overlap": (masks * earlier).mean((0, 2, 3)),
        "slot_binary": binary.to(masks.dtype).mean((0, 2, 3)),
        **budgets,
    }
