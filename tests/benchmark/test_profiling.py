"""The page of a profile, where a GPU's events are listed twice."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from benchmark.profiling import summary


def event(name: str, device: DeviceType, cpu: float, gpu: float, *, note: bool = False) -> object:
    """Of microseconds, with what it calls and without being the same."""
    return SimpleNamespace(
        key=name,
        device_type=device,
        is_user_annotation=note,
        count=2,
        cpu_time_total=cpu,
        self_cpu_time_total=cpu,
        device_time_total=gpu,
        self_device_time_total=gpu,
    )


EVENTS = [
    event("maskbench: input", DeviceType.CPU, 900.0, 100.0),
    event("maskbench: input", DeviceType.CUDA, 0.0, 400.0, note=True),
    event("aten::conv", DeviceType.CPU, 300.0, 1500.0),
    event("conv_kernel", DeviceType.CUDA, 0.0, 1500.0),
    event("copy_kernel", DeviceType.CUDA, 0.0, 500.0),
]


def test_summary__counts_each_kernel_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "card")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _: 2**30)
    cuda = torch.device("cuda")
    page = summary(EVENTS, device=cuda, steps=1, seconds=0.004, images=8, flops=8e9)
    assert "1 step of 8 images on card: 4.0 ms a step" in page
    assert "2000 images/s, 2 TFLOP/s" in page
    assert "The GPU computed for 50% of it; peak memory 1.00 GiB." in page
    assert "| input | 0.40 | 20% |" in page
    assert "| `conv_kernel` | 1.50 | 75% | 2 |" in page
    assert "aten::conv" not in page


def test_summary__of_a_cpu() -> None:
    cpu = torch.device("cpu")
    page = summary(EVENTS, device=cpu, steps=2, seconds=0.001, images=8, flops=8e9)
    assert "| input | 0.45 | 45% |" in page
    assert "| `aten::conv` | 0.15 | 15% | 1 |" in page
    assert "kernel" not in page
