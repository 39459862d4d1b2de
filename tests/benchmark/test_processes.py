"""Real processes against one process with the whole batch; this file is also what they run."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark import processes

pytestmark = pytest.mark.slow

EXACT = {"rtol": 0.0, "atol": 1e-12}
BATCH = 12  # of all processes together


def problem() -> tuple[nn.Module, Tensor, Tensor]:
    """A net and two views of a batch, the same in every process."""
    generator = torch.Generator().manual_seed(0)
    views = torch.randn(2, BATCH, 6, generator=generator, dtype=torch.float64)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return net, views[0], views[1]


def own(rows: Tensor) -> Tensor:
    """This process' rows of a batch."""
    return rows[processes.share(torch.arange(len(rows)))]


def contrastive(net: nn.Module, first: Tensor, second: Tensor) -> Tensor:
    """NT-Xent, the rows of this process' samples against those of all."""
    ours = F.normalize(torch.stack([net(first), net(second)]), dim=2)
    everyone = torch.cat([processes.gathered(z) for z in ours])
    similarity = ours.flatten(0, 1) @ everyone.T / 0.3
    rows = processes.rank() * len(first) + torch.arange(len(first))
    rows = torch.cat([rows, rows + len(everyone) // 2])
    itself = F.one_hot(rows, len(everyone)).bool()
    partner = (rows + len(everyone) // 2) % len(everyone)
    return F.cross_entropy(similarity.masked_fill(itself, -torch.inf), partner)


def whitened(net: nn.Module, first: Tensor, _second: Tensor) -> Tensor:
    """Features normalised by statistics of the batch, as BatchNorm does; not linear in them."""
    z = net(first)
    mean = processes.averaged(z.mean(0))
    variance = processes.averaged(((z - mean) ** 2).mean(0))
    return ((z - mean) / (variance + 0.1).sqrt()).pow(3).mean()


def squared_sum(net: nn.Module, first: Tensor, second: Tensor) -> Tensor:
    """A penalty on a sum over the batch, the same value in every process."""
    return processes.summed((net(first) * net(second)).sum(0)).pow(2).sum()


LOSSES: dict[str, Callable[..., Tensor]] = {
    loss.__name__: loss for loss in (contrastive, whitened, squared_sum)
}


def gradients_of(loss: Callable[..., Tensor]) -> dict[str, Tensor]:
    """The loss of the batch and its gradients, those of parameters and of this process' images."""
    net, first, second = problem()
    first = own(first).requires_grad_()
    value = loss(net, first, own(second))
    value.backward()
    processes.average_gradients(net.parameters())
    found = {name: p.grad for name, p in net.named_parameters()}
    # Of the mean of all processes' losses, the images' gradient is a share.
    images = first.grad / processes.count()
    return {"loss": processes.averaged(value.detach()), "images": images, **found}


def second_order() -> Tensor:
    """A gradient that depends on a gradient through both collectives."""
    net, first, second = problem()
    first = own(first).requires_grad_()
    loss = contrastive(net, first, own(second))
    (gradient,) = torch.autograd.grad(loss, first, create_graph=True)
    return torch.autograd.grad(gradient.pow(2).sum(), first)[0]


def mixed_gradients() -> dict[str, Tensor]:
    """Gradients of several types and layouts, one of them missing."""
    tensors = {
        "half": torch.arange(4.0).half(),
        "double": torch.arange(3.0).double(),
        "strided": torch.arange(24.0).view(1, 2, 3, 4).to(memory_format=torch.channels_last),
        "scalar": torch.tensor(5.0),
    }
    parameters = {name: nn.Parameter(torch.zeros_like(t)) for name, t in tensors.items()}
    for name, p in parameters.items():
        p.grad = tensors[name] * (processes.rank() + 1)
    without = nn.Parameter(torch.ones(2))
    grads = {name: p.grad for name, p in parameters.items()}
    processes.average_gradients([without, *parameters.values()])
    assert without.grad is None
    assert all(p.grad is grads[name] for name, p in parameters.items())
    assert parameters["strided"].grad.is_contiguous(memory_format=torch.channels_last)
    return grads


def buffers() -> dict[str, Tensor]:
    norm = nn.BatchNorm1d(3).double()
    norm(torch.full((4, 3), float(processes.rank())).double())
    processes.average_buffers([norm])
    return dict(norm.named_buffers())


def fails() -> None:
    raise ValueError("no such thing")


def first_alone() -> dict[str, object]:
    """What `once` and `agreed` give, and what goes on in there."""

    def work() -> tuple[int, int, int, Tensor]:
        x = torch.tensor([3.0])
        return processes.count(), processes.rank(), processes.started(), processes.summed(x)

    try:
        processes.once(fails)
    except (ValueError, processes.ElsewhereError) as error:
        failed = (type(error).__name__, str(error))
    agreed = processes.agreed({"rank": processes.rank()})
    return {"once": processes.once(work), "agreed": agreed, "failed": failed}


def everything() -> dict[str, object]:
    """What one process finds."""
    return {
        "numbers": (processes.started(), processes.count(), processes.rank()),
        "share": processes.share(torch.arange(BATCH)),
        "gathered": processes.gathered(processes.share(torch.arange(BATCH))),
        **{name: gradients_of(loss) for name, loss in LOSSES.items()},
        "again": gradients_of(contrastive),
        "second_order": second_order(),
        "mixed": mixed_gradients(),
        "buffers": buffers(),
        "first_alone": first_alone(),
    }


@pytest.fixture(scope="module", params=[2, 3])
def found(request, in_processes) -> list[dict]:
    """What each of several processes finds, in rank order."""
    return in_processes(Path(__file__), request.param)


def test_share__equal_contiguous_slices_in_rank_order(found) -> None:
    assert [f["numbers"] for f in found] == [(len(found), len(found), r) for r in range(len(found))]
    assert torch.equal(torch.cat([f["share"] for f in found]), torch.arange(BATCH))
    assert len({len(f["share"]) for f in found}) == 1
    for f in found:
        assert torch.equal(f["gathered"], torch.arange(BATCH))


@pytest.mark.parametrize("name", LOSSES)
def test_loss_and_gradients__those_of_the_whole_batch(found, name: str) -> None:
    whole = gradients_of(LOSSES[name])
    assert whole["0.weight"].abs().max() > 1e-3
    for f in found:
        for key in whole.keys() - {"images"}:
            torch.testing.assert_close(f[name][key], whole[key], **EXACT)
    images = torch.cat([f[name]["images"] for f in found])
    torch.testing.assert_close(images, whole["images"], **EXACT)


def test_gradients__the_same_bytes_in_all_processes_and_again(found) -> None:
    first = found[0]["contrastive"]
    for f in found:
        for key in first.keys() - {"images"}:
            assert torch.equal(f["contrastive"][key], first[key])
        assert all(torch.equal(f["again"][k], v) for k, v in f["contrastive"].items())


def test_gathered__its_gradient_has_a_gradient(found) -> None:
    """Of the sum over processes of what each makes of its own gradient."""
    net, first, second = problem()
    count = len(found)

    def squares(images: Tensor) -> Tensor:
        loss = count * contrastive(net, images, second)
        (gradient,) = torch.autograd.grad(loss, images, create_graph=True)
        return gradient.pow(2).sum()

    first.requires_grad_()
    whole = torch.autograd.grad(squares(first), first)[0]
    torch.testing.assert_close(torch.cat([f["second_order"] for f in found]), whole, **EXACT)


def test_average_gradients__every_type_and_layout_in_place(found) -> None:
    for f in found:
        for name, gradient in mixed_gradients().items():
            expected = gradient * (len(found) + 1) / 2
            torch.testing.assert_close(f["mixed"][name], expected, rtol=1e-3, atol=0)


def test_average_buffers__means_of_numbers_and_counts_left_alone(found) -> None:
    mean = sum(range(len(found))) / len(found) * 0.1
    for f in found:
        expected = torch.full((3,), mean, dtype=torch.float64)
        torch.testing.assert_close(f["buffers"]["running_mean"], expected, **EXACT)
        assert f["buffers"]["num_batches_tracked"] == 1


def test_once__works_alone_and_all_know(found) -> None:
    for f in found:
        told = f["first_alone"]
        assert told["once"] == (1, 0, len(found), torch.tensor([3.0]))
        assert told["agreed"] == {"rank": 0}
    failures = [f["first_alone"]["failed"] for f in found]
    assert failures[0] == ("ValueError", "no such thing")
    assert set(failures[1:]) == {("ElsewhereError", "no such thing")}


@pytest.mark.parametrize("gone", [0, 1])
def test_once__who_waits_for_a_process_that_is_gone_fails(gone: int) -> None:
    """Without torchrun, which would end the rest: the connection breaks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    where = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": port}
    where |= {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(
            [sys.executable, __file__, "gone", str(gone)],
            env=os.environ | where | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert both[gone].returncode == 9
    assert both[1 - gone].returncode == 1
    assert "ApartError: a process of the run is gone" in errors[1 - gone]


def vanish() -> None:
    os._exit(9)


def test_one_process__is_the_identity() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    assert processes.gathered(x) is processes.summed(x) is x
    with processes.joined(), processes.alone():
        assert (processes.started(), processes.count(), processes.rank()) == (1, 1, 0)
    with pytest.raises(ValueError, match="no such thing"):
        processes.once(fails)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with processes.joined():
        if sys.argv[1] == "gone":
            processes.agreed("all are there")
            if processes.rank() == int(sys.argv[2]) == 1:
                vanish()
            processes.once(vanish if sys.argv[2] == "0" else lambda: time.sleep(3))
            processes.agreed("the first one notices when it speaks next")
        torch.save(everything(), Path(sys.argv[1]) / f"{processes.rank()}.pt")
