"""What rows are called: the paper's names first, then whatever else tells configurations apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.runs import IMPORTED, Run

Config = Mapping[str, Any]  # the resolved one, as config.yaml notes it

# Names whose capitals cannot be guessed; everything else is spelled from its file name.
SPELLING = {
    "adios": "ADIOS",
    "adios_s": "ADIOS-s",
    "ari": "ARI",
    "byol": "BYOL",
    "miou": "mIoU",
    "nmi": "NMI",
    "simclr": "SimCLR",
    "simsiam": "SimSiam",
}

# Keys of config.yaml that cannot tell configurations apart: they change no encoder, or the label
# or another key says the same.
SAME = frozenset(
    (
        "run", "seed", "eval_seeds", "task", "tasks", "controls", "probe", "device", "jobs",
        "threads", "trainer", "residence", "dry_run", "slurm", "launcher", "runs_dir", "tables_dir",
        "data_dir", "log_every_steps", "log_limits", "checkpoint_every_seconds", "mask_net",
        "mask_snapshots", "tensorboard", "wandb", "figures",
    )
)  # fmt: skip


def spelled(name: str) -> str:
    """Turn the name of a file or configuration into words: superpixel_budget, byol."""
    if name in SPELLING:
        return SPELLING[name]
    words = " ".join(SPELLING.get(word, word) for word in name.split("_"))
    return words[:1].upper() + words[1:]


def row_labels(
    runs: Sequence[Run], configs: Mapping[str, Config] | None = None, *, name_data: bool = True
) -> dict[str, str]:
    """Name the row of every configuration (hash8) so that no two rows look alike.

    The paper's names come first ("SimCLR", "+ ADIOS"). The preset follows in brackets, before it
    what is not the same in all rows. Where that leaves several rows with one name, they tell the
    settings that differ, else what their sweep varied, and where that does not help, their hash.

    Args:
        runs: of all rows; the seeds of a configuration share one.
        configs: by hash8, as far as they are known.
        name_data: whether labels tell the data of pretraining where it is not one and the same.
            Without, configurations of different data share a label unless other settings differ.
    """
    configurations = {run.hash8: run for run in runs}
    methods = [run for run in configurations.values() if run.control is None]
    mixed_objectives = len({run.objective for run in methods}) > 1
    mixed = [
        field
        for field in ("encoder", "data")
        if len({getattr(run, field) for run in configurations.values()}) > 1
        and (name_data or field != "data")
    ]
    labels = {}
    for hash8, run in configurations.items():
        differs = [*(getattr(run, field) for field in mixed), run.preset]
        if run.update != "alternating":
            differs.append(f"{spelled(run.update).lower()} update")
        if mixed_objectives and run.control is None and run.method != "none":
            differs.insert(0, spelled(run.objective))
        labels[hash8] = f"{_base_label(run)} ({', '.join(differs)})"
    if name_data:
        return _told_apart(labels, configurations, configs or {})
    apart: dict[str, str] = {}
    for data in dict.fromkeys(run.data for run in configurations.values()):
        own = {h: run for h, run in configurations.items() if run.data == data}
        apart |= _told_apart({h: labels[h] for h in own}, own, configs or {})
    differing = _differing(apart, configs or {})
    return {
        h: f"{label} [{configurations[h].data}]" if label in differing else label
        for h, label in apart.items()
    }


def _base_label(run: Run) -> str:
    if run.control == IMPORTED:
        return run.method  # the file's name
    if run.control is not None:
        return spelled(run.control)
    if run.method == "none":
        return spelled(run.objective)
    return f"+ {spelled(run.method)}"


def _told_apart(
    labels: Mapping[str, str], runs: Mapping[str, Run], configs: Mapping[str, Config]
) -> dict[str, str]:
    """The same labels, longer where several configurations have one."""
    apart = dict(labels)
    for words in (_settings(labels, configs), {h: " ".join(r.varied) for h, r in runs.items()}):
        used = Counter(apart.values())
        for hash8, label in apart.items():
            if used[label] > 1 and words.get(hash8):
                apart[hash8] = f"{labels[hash8]} [{words[hash8]}]"
    used = Counter(apart.values())
    return {h: f"{label} [{h}]" if used[label] > 1 else label for h, label in apart.items()}


def _differing(labels: Mapping[str, str], configs: Mapping[str, Config]) -> set[str]:
    """Labels of configurations that differ in more than their data and what follows from it."""
    settings: dict[str, dict[str, Any]] = {}
    found = set()
    for hash8, label in labels.items():
        if hash8 not in configs:
            continue
        own = {k: v for k, v in flattened(configs[hash8]).items() if not _of_data(k)}
        if settings.setdefault(label, own) != own:
            found.add(label)
    return found


def _of_data(key: str) -> bool:
    first = key.split(".")[0]
    return first in SAME or first in ("data", "normalisation") or key.endswith("image_size")


def _settings(labels: Mapping[str, str], configs: Mapping[str, Config]) -> dict[str, str]:
    """For each configuration what its settings have that others of the same label do not."""
    words: dict[str, str] = {}
    for label in dict.fromkeys(labels.values()):
        alike = [h for h, other in labels.items() if other == label]
        if len(alike) > 1 and all(h in configs for h in alike):
            told = differences([configs[h] for h in alike])
            words |= dict(zip(alike, told, strict=True))
    return words


def differences(configs: Sequence[Config]) -> list[str]:
    """What of each configuration is not the same in all: "budget=0.1 epochs=5".

    Keys that vary together, as one that refers to another does, count once.
    """
    flat = [flattened(config) for config in configs]
    varying: dict[tuple[str, ...], str] = {}
    for key in dict.fromkeys(key for one in flat for key in one):
        values = tuple(str(one.get(key, "")) for one in flat)
        if key.split(".")[0] not in SAME and len(set(values)) > 1:
            varying.setdefault(values, key)
    return [
        " ".join(
            f"{key.removeprefix('method.')}={_shown(one[key])}"
            for key in varying.values()
            if key in one
        )
        for one in flat
    ]


def flattened(config: Config) -> dict[str, Any]:
    """Dotted keys, those of the method first."""
    found: dict[str, Any] = {}

    def add(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                add(f"{prefix}.{key}", inner)
        else:
            found[prefix] = value

    for key in sorted(config, key=lambda key: key != "method"):
        add(key, config[key])
    return found


def _shown(value: Any) -> str:
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)
