"""Several processes that train one model, each on its share of every batch (data parallelism).

A batch is shared out in rank order, every process computes a loss of its share, and the loss of the
batch is the mean of these. So gradients are averaged over the processes; a value that a loss takes
from other processes (`gathered`, `summed`, `averaged`) hands its gradient back to them, summed.

In a run of one process everything here is the identity and nothing waits, so that callers need not
ask how many there are. All processes must call the same functions in the same order.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor, nn

from benchmark.errors import UserError

T = TypeVar("T")

_TIMEOUT = timedelta(minutes=30)  # of a collective in training: a process that is late is lost
_PATIENCE = timedelta(days=365)  # of those that wait while the first one works alone

_messages: dist.ProcessGroup | None = None  # in which `once` waits
_alone = False


class ElsewhereError(RuntimeError):
    """What the first process did for all of them failed there."""


class ApartError(RuntimeError):
    """One process failed or is gone where the others go on: none of them can continue."""


def started() -> int:
    """Processes of this run, also while the first of them works alone."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def count() -> int:
    """Processes that work together now."""
    return 1 if _alone else started()


def rank() -> int:
    """Number of this process among those that work together, from 0."""
    return dist.get_rank() if count() > 1 else 0


def started_here() -> int:
    """Processes of this run on this machine."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if started() > 1 else 1


def local_rank() -> int:
    """Number of this process among those of the run on the same machine, from 0."""
    return int(os.environ["LOCAL_RANK"]) if started() > 1 else 0


def program() -> list[str]:
    """The beginning of a command line that starts as many processes."""
    if started() == 1:
        return ["python"]
    nodes = started() // started_here()
    several = [f"--nnodes={nodes}"] if nodes > 1 else []
    return ["torchrun", *several, f"--nproc-per-node={started_here()}"]


def share(index: Int[Tensor, "b"]) -> Int[Tensor, "_"]:
    """This process' part of a batch: the r-th of equal contiguous slices."""
    assert len(index) % count() == 0, "the plan lets no uneven batch through"
    size = len(index) // count()
    return index[rank() * size : (rank() + 1) * size]


class _Sum(torch.autograd.Function):
    """Sum over the processes; each one's part of the loss depends on it, so gradients add up."""

    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, *gradients: Tensor) -> Tensor:
        return summed(gradients[0])


def summed(x: Tensor) -> Tensor:
    """Sum over the processes, of any shape; the gradient of ``x`` is the sum of theirs."""
    if count() == 1:
        return x
    total: Tensor = _Sum.apply(x)
    return total


def averaged(x: Tensor) -> Tensor:
    """Mean over the processes, of any shape, with its gradient as in `summed`."""
    return summed(x) / count()


def gathered(x: Float[Tensor, "b *d"]) -> Float[Tensor, "p_b *d"]:
    """The rows of all processes in rank order: those of the whole batch, where ``b`` is its share.

    The gradient of ``x`` is the sum, over the processes, of those of its rows. As a sum of rows
    put in their place among zeros the gathering needs no backward of its own; it sends twice what
    an all-gather does, of features, which are small beside the gradients of a net.
    """
    if count() == 1:
        return x
    nothing = torch.zeros_like(x)
    return summed(torch.cat([x if r == rank() else nothing for r in range(count())]))


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace each gradient by its mean over the processes.

    Parameters without a gradient are passed over; they must be the same in every process.
    """
    _average([p.grad for p in parameters if p.grad is not None])


def average_buffers(modules: Iterable[nn.Module]) -> None:
    """Replace each floating-point buffer by its mean over the processes."""
    _average([b for module in modules for b in module.buffers() if b.is_floating_point()])


@torch.no_grad()
def _average(tensors: Iterable[Tensor]) -> None:
    """In place, in one collective for each dtype and device."""
    if count() == 1:
        return
    buckets: dict[tuple[torch.dtype, torch.device], list[Tensor]] = defaultdict(list)
    for tensor in tensors:
        buckets[tensor.dtype, tensor.device].append(tensor)
    for bucket in buckets.values():
        flat = torch.cat([tensor.flatten() for tensor in bucket])
        dist.all_reduce(flat)
        parts = (flat / count()).split([tensor.numel() for tensor in bucket])
        for tensor, part in zip(bucket, parts, strict=True):
            tensor.copy_(part.view_as(tensor))


@contextmanager
def alone() -> Iterator[None]:
    """Inside, this process works as if there was no other: nothing is shared and nobody waits."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def once(work: Callable[[], T]) -> T:
    """Let the first process work alone, and give what it returns to all of them.

    The others wait as long as it takes.

    Raises:
        ApartError: if a process is gone, whose connection broke then.
        ElsewhereError: in the others, if ``work`` raised in the first, with the same words.
    """
    if count() == 1:
        return work()
    told: list[Any] = [None, None]  # what was returned, what went wrong
    failure = None
    if rank() == 0:
        try:
            with alone():
                told[0] = work()
        except Exception as error:
            failure, told[1] = error, str(error) or type(error).__name__
    try:
        dist.broadcast_object_list(told, src=0, group=_messages)
    except RuntimeError as error:
        raise ApartError(f"a process of the run is gone ({error})") from error
    if failure is not None:
        raise failure
    if told[1] is not None:
        raise ElsewhereError(told[1])
    returned: T = told[0]
    return returned


def largest(number: int) -> int:
    """The largest of the processes' numbers, in all of them."""
    if count() == 1:
        return number
    found = torch.tensor(number)
    dist.all_reduce(found, dist.ReduceOp.MAX, group=_messages)
    return int(found)


def agreed(value: T) -> T:
    """The first process' value, in all of them."""
    return once(lambda: value)


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun, or SLURM or submitit with several tasks, has started.

    All of them leave together, unless one fails: then its end breaks the others' connections.

    Raises:
        UserError: where submitit, which knows what SLURM tells its tasks, is missing.
    """
    global _messages
    _read_scheduler()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    # Tensors go through the backend of the device on which they are.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=_TIMEOUT)
    messages = dist.new_group(backend="gloo", timeout=_PATIENCE)
    assert isinstance(messages, dist.ProcessGroup)
    _messages = messages
    yield
    dist.barrier(_messages)
    dist.destroy_process_group()
    _messages = None


def _read_scheduler() -> None:
    """Set torchrun's variables in a job of several tasks that submitit or srun has started."""
    environment = os.environ
    # The number of tasks of the step, not of the job: a batch script itself is one process.
    tasks = environment.get("SUBMITIT_LOCAL_NTASKS") or environment.get("SLURM_STEP_NUM_TASKS", "1")
    if "WORLD_SIZE" in environment or int(tasks) == 1:
        return
    try:
        from submitit.helpers import TorchDistributedEnvironment
    except ImportError as error:
        raise UserError(
            f"this is one of {tasks} tasks of a job, which find each other by submitit, and that "
            "is missing; pip install submitit"
        ) from error
    environment.setdefault("SUBMITIT_EXECUTOR", "slurm")  # which submitit's own jobs are told
    # Which devices a task sees is the scheduler's to say.
    TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
