"""Running statistics in closed form against forwards that really run."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from benchmark.batchnorm import RULES, over_views, record_statistics, running_statistics
from benchmark.encoders import ResNet
from benchmark.errors import UserError
from benchmark.streams import seeded


def make_views() -> Tensor:
    """A clean view, three hidden ones, and one without a mask."""
    with seeded(0, "test/views"):
        return torch.randn(5, 16, 3, 8, 8, dtype=torch.float64)


def plain_net() -> nn.Module:
    with seeded(0, "test/net"):
        inner = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 4, 3))
        return nn.Sequential(inner, BatchNormAct2d(4), nn.Flatten(), nn.BatchNorm1d(64)).double()


ORDERS = {
    ("once", False): [0, 1, 2, 3, 4],
    ("once", True): [],
    ("adios", False): [0, 1, 0, 2, 0, 3],
    ("adios", True): [0, 1, 0, 2, 0, 3],
    ("adios_probe", False): [0, 1, 0, 2, 0, 3, 0, 4],
    ("adios_probe", True): [0, 1, 0, 2, 0, 3],
}


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize(("rule", "adversary"), ORDERS)
def test_running_statistics__equal_to_forwards_really_run(
    rule: str, adversary: bool, at_once: bool
) -> None:
    views = make_views()
    net, oracle = plain_net(), plain_net()
    order = ORDERS[rule, adversary]
    for view in order:
        oracle(views[view])
    unmasked = 4 in order
    record_statistics(net)
    with running_statistics((net,), rule, 3, adversary=adversary):
        clean = net(views[0])
        hidden = over_views(net, views[1:4], at_once=at_once)
        if unmasked:
            net(views[4])
    (clean.square().mean() + hidden.square().mean()).backward()  # the graph is still whole
    assert len(list(net.buffers())) == 9
    for ours, theirs in zip(net.buffers(), oracle.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    for view, output in zip(views[1:4], hidden, strict=True):
        torch.testing.assert_close(output, oracle(view), rtol=1e-12, atol=1e-12)


def test_over_views__hands_each_view_its_own_gradient() -> None:
    gradients = []
    for at_once in (False, True):
        net, views = plain_net(), make_views().requires_grad_()
        record_statistics(net)
        with running_statistics((net,), "once", 5, adversary=False):
            (over_views(net, views, at_once=at_once).sin() ** 3).sum().backward()
        gradients.append([views.grad, *(p.grad for p in net.parameters())])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_record_statistics__outside_of_a_phase_nothing_changes() -> None:
    views = make_views()
    net, oracle = plain_net(), plain_net()
    record_statistics(net)
    assert list(net.state_dict()) == list(oracle.state_dict())
    assert torch.equal(net(views[0]), oracle(views[0]))
    for part in (net, oracle):
        part.eval()
    assert torch.equal(net(views[1]), oracle(views[1]))
    for ours, theirs in zip(net.buffers(), oracle.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    twin = copy.deepcopy(net)
    record_statistics(twin)
    assert torch.equal(twin(views[1]), oracle(views[1]))


def test_running_statistics__in_evaluation_mode_stay() -> None:
    net = ResNet(width=8, stem="stride2").eval()
    before = copy.deepcopy(net.state_dict())
    record_statistics(net)
    with running_statistics((net,), "adios", 1, adversary=True):
        net(torch.randn(2, 3, 32, 32))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_running_statistics__a_failure_leaves_a_usable_net() -> None:
    net = plain_net()
    record_statistics(net)
    before = copy.deepcopy(net.state_dict())

    def phase(*batches: Tensor) -> None:
        with running_statistics((net,), "once", 1, adversary=False):
            for batch in batches:
                net(batch)

    with pytest.raises(RuntimeError, match="size"):
        phase(make_views()[0], make_views()[0, :, :, :4])
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert torch.equal(net(make_views()[0]), plain_net()(make_views()[0]))


@pytest.mark.parametrize("rule", RULES)
def test_running_statistics__of_a_norm_that_saw_nothing_stay(rule: str) -> None:
    net = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)]).double()
    record_statistics(net)
    with running_statistics((net,), rule, 1, adversary=False):
        for view in make_views()[:2]:
            net[0](view)
    assert net[0].num_batches_tracked == 2
    assert net[1].num_batches_tracked == 0
    assert torch.equal(net[1].running_mean, torch.zeros(3, dtype=torch.float64))


def test_running_statistics__refuses_an_order_for_a_norm_used_several_times() -> None:
    net = nn.BatchNorm2d(3).double()
    record_statistics(net)

    def phase() -> None:
        with running_statistics((net,), "adios", 1, adversary=False):
            for view in make_views()[:2]:
                net(net(view))

    with pytest.raises(UserError, match="use batchnorm=once"):
        phase()


def test_record_statistics__refuses_what_it_does_not_know() -> None:
    with pytest.raises(UserError, match="SyncBatchNorm, whose statistics cannot be recorded"):
        record_statistics(nn.Sequential(nn.SyncBatchNorm(3)))
    with pytest.raises(UserError, match="BatchNorm2d without running statistics"):
        record_statistics(nn.BatchNorm2d(3, track_running_stats=False))


def test_rules__are_those_tested() -> None:
    assert {rule for rule, _ in ORDERS} == set(RULES)
