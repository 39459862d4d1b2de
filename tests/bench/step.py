"""Training steps: the published order of execution against ours, and every lever by itself.

    python tests/bench/step.py

ResNet18 at 96 pixels, U-Net of width 32 with instance norm, SimCLR, SGD. On a CPU: batches of 64
(or the number given) in fp32, and in bf16 where the processor computes it natively. On a GPU:
batches of 256, images per second, model FLOP utilisation against the dense bf16 peak of the card
where it is known, and peak memory beyond the weights. Repeats are interleaved; a ratio is the
median of the ratios within each repeat. Use the allocator settings of `benchmark.launcher`, as
`suite.py` does.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from measure import Row, interleaved, print_rows, ratios, summary
from reference import ReferenceStep
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmark.contracts import Batch, MaskingMethod
from benchmark.encoders import ResNet
from benchmark.execution import compile_nets
from benchmark.objectives import SimCLR
from benchmark.optim import build_optimiser
from benchmark.precision import native_precision
from benchmark.streams import Streams, seeded
from benchmark.trainer import Trainer
from methods.adios import Adios
from methods.none import NoMask
from methods.sequential import Sequential

SIZE, WIDTH = 96, 32
SGD = {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}
_LIMIT = 240.0  # seconds after which no other case is compiled
# Dense bf16 FLOP/s by the vendor's data sheets.
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}


@dataclass(frozen=True)
class Case:
    """One way of running a step."""

    name: str
    method: Callable[[], MaskingMethod]
    precision: str = "fp32"
    channels_last: bool = True
    at_once: bool = False
    update: str = "alternating"
    compile: str = "off"
    sync_batchnorm: bool = False


def adios() -> Adios:
    return Adios(SIZE, 4, WIDTH, "instance", sparsity=0.92, entropy=0.71)


def sequential(history: str) -> Sequential:
    return Sequential(SIZE, 5, WIDTH, "instance", budget=0.25, history_input=history)


def make_batch(count: int, device: torch.device) -> Batch:
    index = torch.arange(count, device=device)
    streams = Streams(0, 0, index)
    views = streams.normal("bench/views", 2, 3, SIZE, SIZE).transpose(0, 1).contiguous()
    return Batch(views, views.sigmoid(), index, index % 10, None, 0.5, streams)


def make_nets(method: Callable[[], MaskingMethod]) -> tuple[ResNet, SimCLR, MaskingMethod]:
    with seeded(0, "bench/nets"):
        encoder = ResNet()
        return encoder, SimCLR(encoder, feature_dim=512), method()


def reference_step(batch: Batch) -> Callable[[], object]:
    device = batch.views.device
    encoder, objective, method = (net.to(device) for net in make_nets(adios))
    classifier = nn.Linear(512, 10).to(device)
    sgd = [
        torch.optim.SGD((p for net in nets for p in net.parameters()), lr=0.05, momentum=0.9)
        for nets in ((encoder, objective, classifier), (method,))
    ]
    step = ReferenceStep(encoder, objective, method, classifier, *sgd)
    return lambda: step(batch)


def make_trainer(case: Case, device: torch.device) -> Trainer:
    nets = make_nets(case.method)
    layout = torch.channels_last if case.channels_last else torch.contiguous_format
    encoder, objective, method = (net.to(device).to(memory_format=layout) for net in nets)
    objective.at_once = case.at_once
    trainer = Trainer(
        encoder=encoder,
        objective=objective,
        method=method,
        probe=None,
        encoder_optimiser=build_optimiser((encoder, objective), **SGD),
        mask_optimiser=build_optimiser((method,), **SGD) if method.adversarial else None,
        batchnorm="once",
        precision=case.precision,
        update=case.update,
        sync_batchnorm=case.sync_batchnorm,
        cuda_graphs=case.compile == "reduce-overhead",
    )
    compile_nets((encoder, *method.costly_nets()), case.compile)
    return trainer


def our_step(case: Case, batch: Batch) -> Callable[[], object]:
    trainer = make_trainer(case, batch.views.device)
    return lambda: trainer.step(batch)


def cpu_cases() -> list[Case]:
    base = Case("ours, channels_last", adios)
    cases = [
        replace(base, name="ours, contiguous", channels_last=False),
        base,
        replace(base, name="ours, branches in one batch", at_once=True),
        replace(base, name="ours, low_memory", update="low_memory"),
        replace(base, name="ours, simultaneous (another update)", update="simultaneous"),
    ]
    if native_precision(torch.device("cpu")) == "bf16":
        cases.append(replace(base, name="ours, bf16", precision="bf16"))
        both = "ours, bf16, simultaneous (another update)"
        cases.append(replace(base, name=both, precision="bf16", update="simultaneous"))
    return cases


def gpu_cases() -> list[Case]:
    eager = Case("adios N=4, fp32, loop", adios)
    bf16 = replace(eager, name="adios N=4, bf16, loop", precision="bf16")
    batch = replace(bf16, name="adios N=4, bf16, one batch", at_once=True)
    compiled = replace(batch, name="adios N=4, bf16, one batch, compiled", compile="default")
    graphs = replace(
        batch, name="adios N=4, bf16, one batch, CUDA graphs", compile="reduce-overhead"
    )
    other = "adios N=4, bf16, simultaneous (another update)"
    return [  # those that matter most first: compiling takes minutes, and there is a limit
        eager,
        bf16,
        batch,
        replace(batch, name=other, update="simultaneous"),
        replace(batch, name="adios N=4, bf16, low_memory", at_once=False, update="low_memory"),
        graphs,
        replace(graphs, name="simclr", method=NoMask),
        replace(graphs, name="sequential N=5, head input", method=lambda: sequential("head")),
        replace(graphs, name="sequential N=5, U-Net input", method=lambda: sequential("unet")),
        compiled,
    ]


ASKED = {
    "ours, channels_last": "at least 1.5, aim 1.8",
    "ours, bf16": "at least 2.6, aim 3.1",
    "ours, bf16, simultaneous (another update)": "at least 3.5, aim 4.4",
    "adios N=4, bf16, one batch, CUDA graphs": "at least 8,000, aim 11,000; ratio at least 3",
    "simclr": "at least 35,000, aim 50,000",
    "sequential N=5, head input": "at least 7,000",
    "sequential N=5, U-Net input": "at least 4,500",
}


def rows(count: int | None = None, repeats: int = 3) -> list[Row]:
    """Speed of each case, its ratio to the reference order, and what a GPU adds."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device.type == "cuda"
    count = count or (256 if gpu else 64)
    batch = make_batch(count, device)
    cases = gpu_cases() if gpu else cpu_cases()
    steps = {"reference order": reference_step(batch)}
    found = []
    started = time.monotonic()
    for case in cases:
        if time.monotonic() - started > _LIMIT:
            found.append(Row("step", case.name, None, "img/s", note="not measured: out of time"))
            continue
        step = our_step(case, batch)
        try:
            step()
        except Exception as error:  # is told in the table; the other cases are still worth knowing
            words = f"FAILED: {type(error).__name__} {error}".splitlines()[0]
            found.append(Row("step", case.name, None, "img/s", note=words[:200]))
        else:
            steps[case.name] = step
    cases = [case for case in cases if case.name in steps]
    seconds = interleaved(steps, repeats, warm_up=4 if gpu else 1)
    for name, taken in seconds.items():
        speeds = [count / s for s in taken]
        found.append(summary("step", name, speeds, "img/s", ASKED.get(name, "") if gpu else ""))
    for name, taken in seconds.items():
        found.append(
            summary(
                "step, ratio to the reference order",
                name,
                ratios(seconds["reference order"], taken),
                "x",
                ASKED.get(name, "") if not gpu else "",
            )
        )
    if gpu:
        for case in cases:
            found += _gpu_rows(case, batch, statistics.median(seconds[case.name]))
    return found + _not_measured(gpu)


def _gpu_rows(case: Case, batch: Batch, seconds: float) -> list[Row]:
    """Utilisation of the card, and memory of a step beyond weights and optimisers."""
    device = batch.views.device
    trainer = make_trainer(case, device)
    trainer.step(batch)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    trainer.step(batch)
    gigabytes = (torch.cuda.max_memory_allocated(device) - before) / 2**30
    rows = [Row("step, memory beyond weights", case.name, gigabytes, "GiB", note="at most 5 GB")]
    name = torch.cuda.get_device_name(device)
    peak = next((flops for card, flops in PEAKS.items() if card in name), None)
    if peak is not None and case.precision == "bf16":
        with FlopCounterMode(display=False) as counter:
            make_trainer(replace(case, compile="off"), device).step(batch)
        share = 100 * counter.get_total_flops() / seconds / peak
        rows.append(Row("step, model FLOP utilisation", case.name, share, "%"))
    return rows


def _not_measured(gpu: bool) -> list[Row]:
    if gpu:
        return []
    found = [
        Row("step", case.name, None, "img/s", note=f"no GPU here; {ASKED[case.name]}")
        for case in gpu_cases()
        if case.name in ASKED
    ]
    if native_precision(torch.device("cpu")) != "bf16":
        found += [
            Row(
                "step, ratio to the reference order", name, None, "x", note=f"no bf16 here; {asked}"
            )
            for name, asked in ASKED.items()
            if name.startswith("ours, bf16")
        ]
    return found


if __name__ == "__main__":
    print_rows(rows(*map(int, sys.argv[1:])))
