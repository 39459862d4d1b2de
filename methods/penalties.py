"""What the sequential adversary pays for: budget, overlap, consistency (arXiv 2212.08277).

Each function returns one value per slot, averaged over the batch, so that the method decides how
slots are reduced. Overlap and consistency are means over pixels; the paper's are sums.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from benchmark.contracts import Masks
from benchmark.processes import averaged

BudgetSide = Literal["upper", "two", "hard"]
BudgetUnit = Literal["share", "pixels", "literal"]
BudgetOver = Literal["image", "batch"]
History = Literal["sum", "union", "max"]


def budget_excess(
    masks: Masks, budgets: Float[Tensor, "b n"], unit: BudgetUnit = "share"
) -> Float[Tensor, "b n"]:
    """How far each mask's area lies above its budget.

    R_b of section 3 is ``(sum of pixels - b)^2`` with b called a share of the pixels. "share" and
    "pixels" read both as shares or both as numbers of pixels; "literal" subtracts the share from
    the number, word for word, which every non-empty mask exceeds.
    """
    if unit == "share":
        return masks.mean((2, 3)) - budgets
    pixels = masks.shape[2] * masks.shape[3] if unit == "pixels" else 1
    return masks.sum((2, 3)) - budgets * pixels


def budget_penalty(
    excess: Float[Tensor, "b n"], side: BudgetSide, over: BudgetOver = "image"
) -> Float[Tensor, "n"]:
    """R_b of section 3, the square of the excess.

    With ``side="upper"`` only an area above the budget counts: the one reading that leaves a mask
    free to hide nothing, as Appendix B observes. With ``over="batch"`` the mean area of the batch
    has to keep the budget, so that images may differ; the paper squares for each image.
    """
    if over == "batch":
        excess = averaged(excess.mean(0, keepdim=True))
    if side == "upper":
        excess = excess.clamp_min(0)
    return excess.square().mean(0)


def overlap_penalty(
    masks: Masks, history: History = "sum", *, detach: bool = False
) -> Float[Tensor, "n"]:
    """``m^i . sum_{j<i} m^j`` (section 3), as a mean over pixels.

    Args:
        masks: in their order.
        history: "sum" as in the paper; "union" is the sum cut off at 1 and "max" the largest
            earlier value, so that a pixel hidden twice does not count twice.
        detach: let no gradient reach the earlier masks.
    """
    if history == "max":
        earlier = F.pad(masks, (0, 0, 0, 0, 1, 0))[:, :-1].cummax(1).values
    else:
        earlier = masks.cumsum(1) - masks
        if history == "union":
            earlier = earlier.clamp(max=1)
    return (masks * (earlier.detach() if detach else earlier)).mean((0, 2, 3))


def consistency_penalty(
    masks: Masks, kernel: int = 3, *, detach: bool = False
) -> Float[Tensor, "n"]:
    """``||m - m*||^2``, m* the average-pooled m (Appendix C), as a mean over pixels.

    At the border the average is over the pixels that exist. With ``detach`` the average is a
    fixed target.
    """
    smooth = F.avg_pool2d(masks, kernel, stride=1, padding=kernel // 2, count_include_pad=False)
    return (masks - (smooth.detach() if detach else smooth)).square().mean((0, 2, 3))
