"""BatchNorm for steps that encode several views: whose statistics, and which of them are kept.

Encoding the clean view once saves a third of the encoder's work but changes how often its batch
statistics enter the running ones. So each phase of a step only records what every forward saw, and
the running statistics are then set in closed form, as if the forwards of the stated rule had run:

- ``once``: each distinct view once, in the encoder phase only, so that evaluation sees the
  statistics of the encoder's own training and the adversary leaves no trace in its buffers;
- ``adios``: as in the ADIOS code, clean view and hidden view in turn for every mask, in both
  phases (x, m1, x, m2, ...);
- ``adios_probe``: and after those of the encoder phase both views once more without a mask, as in
  that code's online classifier, at the price of one more forward.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmark.errors import UserError
from benchmark.precision import full_precision
from benchmark.processes import count, gathered

RULES = ("once", "adios", "adios_probe")

# Mean and unbiased variance of each channel over a batch.
Statistics = tuple[Float[Tensor, "c"], Float[Tensor, "c"]]


class RecordingNorm(_BatchNorm):
    """What `record_statistics` makes of a BatchNorm: in a phase of a step it only records.

    Attributes:
        views: views of the batch that lie one after another in it, each with statistics of its own.
        synchronised: take the statistics over the batches of all processes.
        recorded: statistics of each view in the order seen, None outside of a phase.
    """

    views: int
    synchronised: bool
    recorded: list[Statistics] | None
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Normalise as always; in a phase, leave the running statistics alone."""
        if self.recorded is None or not self.training:
            return super().forward(x)
        normalise = self._over_processes if self.synchronised else self._by_itself
        parts = [normalise(part) for part in x.chunk(self.views)]
        y = parts[0] if self.views == 1 else torch.cat(parts)
        if isinstance(act := getattr(self, "act", None), nn.Module):  # timm's BatchNormAct2d
            assert isinstance(self.drop, nn.Module)
            y = act(self.drop(y))
        return y

    def _by_itself(self, x: Tensor) -> Tensor:
        mean, variance = torch.zeros_like(self.running_mean), torch.ones_like(self.running_var)
        # With momentum 1 running statistics are this batch's own.
        y = F.batch_norm(x, mean, variance, self.weight, self.bias, True, 1.0, self.eps)
        assert self.recorded is not None
        self.recorded.append((mean, variance))
        return y

    def _over_processes(self, x: Tensor) -> Tensor:
        others = [d for d in range(x.ndim) if d != 1]
        variance, mean = torch.var_mean(full_precision(x), others, correction=0)
        means, variances = gathered(torch.stack([mean, variance])[None]).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        scale = (variance + self.eps).rsqrt()
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight, shift * self.weight + self.bias
        shape = [1, -1, *[1] * (x.ndim - 2)]
        images = count() * x.numel() // x.shape[1]
        assert self.recorded is not None
        unbiased = variance.detach() * (images / max(images - 1, 1))
        self.recorded.append((mean.detach(), unbiased))
        return torch.addcmul(shift.view(shape), full_precision(x), scale.view(shape)).to(x.dtype)


def record_statistics(net: nn.Module, *, synchronised: bool = False) -> None:
    """Let every BatchNorm of ``net`` be a `RecordingNorm`; names and weights stay.

    Raises:
        UserError: for a BatchNorm of a kind that has steps of its own.
    """
    for module in net.modules():
        if isinstance(module, RecordingNorm):
            module.synchronised = synchronised
        if not isinstance(module, _BatchNorm) or isinstance(module, RecordingNorm):
            continue
        kind = type(module)
        if kind not in (nn.BatchNorm1d, nn.BatchNorm2d) and kind.__name__ != "BatchNormAct2d":
            raise UserError(
                f"the net has a {kind.__name__}, whose statistics cannot be recorded; choose a net "
                "with BatchNorm1d, BatchNorm2d, timm's BatchNormAct2d or other norms"
            )
        if not module.track_running_stats:
            raise UserError(
                f"the net has a {kind.__name__} without running statistics, which has nothing to "
                "evaluate with; set track_running_stats=True or choose another net"
            )
        # Names of parameters, hooks and whoever holds the module are none the wiser.
        module.__class__ = type(f"Recording{kind.__name__}", (RecordingNorm, kind), {})
        assert isinstance(module, RecordingNorm)
        module.views, module.synchronised, module.recorded = 1, synchronised, None


def over_views(
    net: nn.Module, views: Float[Tensor, "m b ..."], *, at_once: bool
) -> Float[Tensor, "m b d"]:
    """The output of ``net`` for each view, one after another or all in one batch."""
    if not at_once or len(views) == 1:
        return torch.stack([net(view) for view in views])
    norms = _recording((net,))
    for norm in norms:
        norm.views = len(views)
    outputs: Tensor = net(views.flatten(0, 1)).unflatten(0, (len(views), -1))
    for norm in norms:
        norm.views = 1
    return outputs


def _recording(nets: Iterable[nn.Module]) -> list[RecordingNorm]:
    return [m for net in nets for m in net.modules() if isinstance(m, RecordingNorm)]


def forward_order(rule: str, hidden: int, records: int, *, adversary: bool) -> list[int]:
    """Which recorded forwards enter the running statistics, and in which order.

    Args:
        rule: one of ``RULES``.
        hidden: number of hidden views.
        records: forwards that a norm saw: the clean view, the hidden ones, and those without a
            mask if there were any.
        adversary: whether it is the adversary's phase.

    Raises:
        UserError: for a norm that a net uses several times in a forward, of which only "once"
            knows the order.
    """
    if rule == "once":
        return [] if adversary else list(range(records))
    if records > hidden + 2:
        raise UserError(
            f"batchnorm={rule} gives the order of forwards of a whole net, and this one uses a "
            "BatchNorm several times in each; use batchnorm=once"
        )
    order = [view for k in range(1, hidden + 1) for view in (0, k)]
    return order + [v for unmasked in range(hidden + 1, records) for v in (0, unmasked)]


@contextmanager
def running_statistics(
    nets: Iterable[nn.Module], rule: str, hidden: int, *, adversary: bool
) -> Iterator[None]:
    """Let the forwards inside, of which ``hidden`` views are hidden, move the running statistics.

    Their graph stays usable: it does not hold the running statistics.
    """
    norms = [norm for norm in _recording(nets) if norm.training]
    for norm in norms:
        norm.recorded = []
    try:
        yield
        _move(norms, rule, hidden, adversary=adversary)
    finally:
        for norm in norms:
            norm.recorded = None


@torch.no_grad()
def _move(norms: Sequence[RecordingNorm], rule: str, hidden: int, *, adversary: bool) -> None:
    """``running <- (1 - momentum) running + momentum seen`` for each of the order, at once.

    Norms that saw equally many forwards move together, in few operations.
    """
    alike: dict[tuple[int, float], list[RecordingNorm]] = defaultdict(list)
    for norm in norms:
        alike[len(norm.recorded or ()), norm.momentum or 0.0].append(norm)
    for (records, momentum), group in alike.items():
        if not records:  # a part of the net that this phase does not use
            continue
        order = forward_order(rule, hidden, records, adversary=adversary)
        if not order:
            continue
        weights = [0.0] * records
        for age, i in enumerate(reversed(order)):
            weights[i] += momentum * (1 - momentum) ** age
        running = [t for norm in group for t in (norm.running_mean, norm.running_var)]
        torch._foreach_mul_(running, (1 - momentum) ** len(order))
        for i, weight in enumerate(weights):
            seen = [t for norm in group for t in norm.recorded[i]]  # type: ignore[index]
            torch._foreach_add_(running, seen, alpha=weight)
        torch._foreach_add_([norm.num_batches_tracked for norm in group], len(order))
