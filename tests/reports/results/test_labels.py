from __future__ import annotations

import pytest

from reports.results.labels import differences, flattened, row_labels, spelled


def test_spelled__known_and_unknown_names() -> None:
    names = ("adios", "adios_s", "superpixel_budget", "random", "byol", "simsiam")
    spellings = ["ADIOS", "ADIOS-s", "Superpixel budget", "Random", "BYOL", "SimSiam"]
    assert [spelled(name) for name in names] == spellings


def labels(runs, configs=None, **options: bool) -> list[str]:
    return list(row_labels(runs, configs, **options).values())


def test_row_labels__as_in_the_paper(make_run) -> None:
    runs = [make_run(name, 0, {}) for name in ("none", "adios", "superpixel_budget")]
    runs.append(make_run("none", 0, {}, control="untrained"))
    expected = ["SimCLR", "+ ADIOS", "+ Superpixel budget", "Untrained"]
    assert labels(runs) == [f"{label} (demo)" for label in expected]


def test_row_labels__mixed_presets_and_objectives(make_run) -> None:
    runs = [
        make_run("none", 0, {}),
        make_run("none", 0, {}, objective="byol"),
        make_run("adios", 0, {}, objective="byol", preset="smoke"),
        make_run("none", 0, {}, control="supervised"),
    ]
    assert labels(runs) == [
        "SimCLR (demo)",
        "BYOL (demo)",
        "+ ADIOS (BYOL, smoke)",
        "Supervised (demo)",
    ]


def test_row_labels__another_update_is_told(make_run) -> None:
    runs = [
        make_run("adios", 0, {}, update=u) for u in ("alternating", "simultaneous", "low_memory")
    ]
    assert labels(runs) == [
        "+ ADIOS (demo)",
        "+ ADIOS (demo, simultaneous update)",
        "+ ADIOS (demo, low memory update)",
    ]


def test_row_labels__data_is_told_unless_each_column_has_its_own(make_run) -> None:
    runs = [make_run("none", 0, {}, data=data) for data in ("scenes", "digits")]
    assert labels(runs) == ["SimCLR (scenes, demo)", "SimCLR (digits, demo)"]
    assert labels(runs, name_data=False) == ["SimCLR (demo)", "SimCLR (demo)"]


def test_row_labels__alike_on_one_data_set_only(make_run) -> None:
    runs = [
        make_run("adios", 0, {}, hash8="a"),
        make_run("adios", 0, {}, hash8="b"),
        make_run("adios", 0, {}, hash8="c", data="digits"),
    ]
    assert labels(runs, name_data=False) == [
        "+ ADIOS (demo) [a]",
        "+ ADIOS (demo) [b]",
        "+ ADIOS (demo)",
    ]


def test_row_labels__settings_that_differ(make_run) -> None:
    runs = [make_run("adios", 0, {}, hash8=h) for h in "abc"]
    configs = {
        h: {"seed": k, "epochs": 5, "method": {"weight": weight, "width": 2.0}}
        for k, (h, weight) in enumerate(zip("abc", (0.1, 1.0, 10.0), strict=True))
    }
    assert labels(runs, configs) == [f"+ ADIOS (demo) [weight={w}]" for w in ("0.1", "1", "10")]
    del configs["c"]  # then the hash has to do
    assert labels(runs, configs) == [f"+ ADIOS (demo) [{h}]" for h in "abc"]


@pytest.mark.parametrize("name_data", [True, False])
def test_row_labels__what_the_sweep_varied_before_the_hash(make_run, name_data: bool) -> None:
    runs = [
        make_run("sequential", 0, {}, hash8=f"{k:08d}", varied=varied)
        for k, varied in enumerate([("mask_net.num_masks=2",), ("mask_net.num_masks=3",), (), ()])
    ]
    runs.append(make_run("none", 0, {}, varied=("mask_net.num_masks=2",)))
    assert labels(runs, name_data=name_data) == [
        "+ Sequential (demo) [mask_net.num_masks=2]",
        "+ Sequential (demo) [mask_net.num_masks=3]",
        "+ Sequential (demo) [00000002]",
        "+ Sequential (demo) [00000003]",
        "SimCLR (demo)",
    ]


def sequential(budget: float, epochs: int, **more: object) -> dict[str, object]:
    return {"method": {"budget": budget}, "epochs": epochs, **more}


def test_row_labels__other_settings_on_other_data_are_other_rows(make_run) -> None:
    runs = [make_run("sequential", 0, {}, data=data, hash8=data) for data in ("scenes", "cifar10")]
    runs += [
        make_run("none", 0, {}, data=data, hash8=f"n-{data}") for data in ("scenes", "cifar10")
    ]
    configs = {
        "scenes": sequential(0.1, 2),
        "cifar10": sequential(0.5, 500),
        "n-scenes": {"epochs": 2},
        "n-cifar10": {"epochs": 2},
    }
    expected = ["+ Sequential (demo) [scenes]", "+ Sequential (demo) [cifar10]"]
    plain = ["SimCLR (demo)", "SimCLR (demo)"]
    rows = row_labels(runs, configs, name_data=False)
    assert [rows[run.hash8] for run in runs] == expected + plain
    del configs["scenes"]  # then nothing tells that they differ
    rows = row_labels(runs, configs, name_data=False)
    assert [rows[run.hash8] for run in runs] == ["+ Sequential (demo)"] * 2 + plain


def test_row_labels__what_follows_from_the_data_makes_no_other_row(make_run) -> None:
    runs = [make_run("sequential", 0, {}, data=data, hash8=data) for data in ("scenes", "cifar10")]
    configs = {
        data: sequential(
            0.1,
            2,
            data={"name": data, "train": [data]},
            augment={"image_size": size},
            normalisation={"mean": [size]},
            jobs=size,
            seed=size,
        )
        for data, size in (("scenes", 32), ("cifar10", 64))
    }
    assert labels(runs, configs, name_data=False) == ["+ Sequential (demo)"] * 2


def test_row_labels__rows_of_a_sweep_on_several_data_sets(make_run) -> None:
    runs = [
        make_run("sequential", 0, {}, data=data, hash8=f"{data}{number}")
        for data in ("scenes", "digits")
        for number in range(2)
    ]
    budgets = (0.1, 0.2, 0.1, 0.2)
    configs = {r.hash8: sequential(b, 2) for r, b in zip(runs, budgets, strict=True)}
    rows = [f"+ Sequential (demo) [budget={budget}]" for budget in budgets]
    assert labels(runs, configs, name_data=False) == rows
    configs["digits1"] |= {"fill": "mean"}  # tells it from digits0, and so from scenes1
    assert labels(runs, configs, name_data=False) == [
        "+ Sequential (demo) [budget=0.1]",
        "+ Sequential (demo) [budget=0.2]",
        "+ Sequential (demo) [budget=0.1]",
        "+ Sequential (demo) [budget=0.2 fill=mean]",
    ]


def test_row_labels__hash_as_last_resort(make_run) -> None:
    runs = [make_run("adios", 0, {}, hash8=f"{k:08d}") for k in (1, 2)]
    runs.append(make_run("none", 0, {}))
    assert labels(runs) == [
        "+ ADIOS (demo) [00000001]",
        "+ ADIOS (demo) [00000002]",
        "SimCLR (demo)",
    ]


def test_differences__keys_that_vary_together_count_once() -> None:
    configs = [
        {"epochs": e, "schedule": {"epochs": e}, "method": {"budget": b}, "jobs": b}
        for e, b in ((5, 0.1), (10, 0.1), (10, 0.2))
    ]
    assert differences(configs) == [
        "budget=0.1 epochs=5",
        "budget=0.1 epochs=10",
        "budget=0.2 epochs=10",
    ]


def test_differences__a_key_that_only_one_has() -> None:
    assert differences([{"method": {}}, {"method": {"budget": 0.5}}]) == ["", "budget=0.5"]


def test_flattened__the_method_first() -> None:
    config = {"epochs": 5, "method": {"net": {"width": 8}, "budget": 0.1}}
    assert flattened(config) == {"method.net.width": 8, "method.budget": 0.1, "epochs": 5}
    assert next(iter(flattened(config))) == "method.net.width"
