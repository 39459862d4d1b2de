from __future__ import annotations

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sample_report import run_page, sample_report, snapshots

import reports.page.page as module
from reports.page.page import page, write_page
from reports.page.page_masks import CONFIGURATIONS, galleries, read_snapshot
from reports.page.report import Picture, Report, Section
from reports.tables.markup import Cell, Column, Row, Table

HOSTILE = (
    "<script>alert(1)</script> </script><!-- <img src=x onerror=alert(1)> \" ' {{ 7 * 7 }} {% x %} "
    "]]> &amp; \x00 \x1b[31mred\x1b[0m \ud800 \u202e javascript:alert(1)"
)
CSS = Path(module.__file__).parent / "html" / "report.css"
JS = CSS.with_suffix(".js")
VOID = {"meta", "link", "img", "input", "br"}


class Elements(HTMLParser):
    """All elements of a page, which must be nested properly."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"{tag} repeats an attribute"
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.scripts if self._open[-1:] == ["script"] else self.texts).append(data)

    def all(self, *tags: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag in tags]

    def values(self, name: str) -> list[str]:
        return [attributes[name] or "" for _, attributes in self.found if name in attributes]


@pytest.fixture
def report(tmp_path: Path) -> Report:
    return sample_report(tmp_path)


def data(html: str, name: str) -> Any:
    match = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', html, re.S)
    assert match
    return json.loads(match[1])


def test_write_page__same_report_gives_the_same_bytes(report: Report, tmp_path: Path) -> None:
    first = write_page(report, tmp_path / "a.html").read_bytes()
    assert write_page(report, tmp_path / "b.html").read_bytes() == first


def test_page__shows_all_of_a_report(report: Report) -> None:
    text = " ".join(" ".join(Elements(page(report)).texts).split())
    for part in (
        "Three ways to mask", "maskbench -m", "c0ffee", "No run failed.", "What the features",
        "Table 1. Scores of three methods", "100.00 ± 1.00", "(n=2)", "best", "tied", "control",
        "Underlined: not", "a linear classifier", "Scores as bars", "+ Sequential, seed 1",
        "accuracy 12.50", "/runs/odd holds no run",
    ):  # fmt: skip
        assert part in text, part


def test_page__an_empty_report_is_a_page(tmp_path: Path) -> None:
    text = " ".join(Elements(page(Report("Empty", [], [], []))).texts)
    assert "Nothing: all that lies in the folders" in text
    assert "There are none." in text


def test_page__text_of_files_is_never_markup(report: Report, tmp_path: Path) -> None:
    table = Table(
        HOSTILE,
        HOSTILE,
        HOSTILE,
        [Column(HOSTILE, HOSTILE), Column(HOSTILE)],
        [
            Row(
                HOSTILE,
                [Cell(HOSTILE, HOSTILE, "best", 1.0, (HOSTILE,)), Cell("", HOSTILE)],
                HOSTILE,
            )
        ],
        [HOSTILE],
        [f"`{HOSTILE}`"],
        HOSTILE,
    )
    picture = replace(report.sections[0].pictures[0], title=HOSTILE, text=HOSTILE)
    masked = snapshots(tmp_path / "masked")
    run = run_page(
        tmp_path, HOSTILE, 0, HOSTILE, state=HOSTILE, scores=[HOSTILE], log=HOSTILE,
        provenance={HOSTILE: [HOSTILE]}, snapshots=masked,
    )  # fmt: skip
    hostile = Report(
        HOSTILE,
        [HOSTILE],
        [Section(HOSTILE, [HOSTILE], [table], [picture])],
        [replace(run, folder=HOSTILE)],
        {HOSTILE: {HOSTILE: HOSTILE}},
        [HOSTILE],
        HOSTILE,
        HOSTILE,
    )
    html = page(hostile)
    html.encode()
    elements = Elements(html)
    kind = [script.get("type") for script in elements.all("script")]
    assert kind == ["application/json", "application/json", None]
    assert len(elements.all("img")) == 1 + 4 + 1  # picture, images, strip
    assert not [name for _, found in elements.found for name in found if name.startswith("on")]
    assert not [value for value in elements.values("href") if not re.match(r"#|data:", value)]
    assert "{{ 7 * 7 }}" in " ".join(elements.texts)
    assert not re.search("[\x00\x1b\ud800\u202e]", html)
    details = data(html, "run-data")
    assert "<script>alert(1)</script> </script><!--" in details["runs"][0]["log"]
    assert "red" in details["runs"][0]["log"]
    assert "\x1b" not in json.dumps(details, ensure_ascii=False)


def test_page__is_well_formed(report: Report) -> None:
    elements = Elements(page(report))
    ids = elements.values("id")
    assert len(ids) == len(set(ids))
    links = [value[1:] for value in elements.values("href") if value.startswith("#")]
    named = [*links, *elements.values("for"), *elements.values("aria-labelledby")]
    assert set(named) <= set(ids)
    assert all(image["alt"] and image["src"] for image in elements.all("img"))
    assert all(button.get("type") == "button" for button in elements.all("button"))
    labels = {label["for"] for label in elements.all("label")}
    assert {field["id"] for field in elements.all("input")} == labels
    levels = [int(tag[1]) for tag, _ in elements.found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))
    assert {"header", "nav", "main", "footer"} <= {tag for tag, _ in elements.found}


def test_page__loads_nothing(report: Report) -> None:
    html = page(report)
    addresses = [*Elements(html).values("src"), *Elements(html).values("href")]
    assert not [value for value in addresses if not value.startswith(("#", "data:"))]
    assert not re.search(r"https?://|@import|url\(|srcset|fetch\(|XMLHttp", html)


def test_page__only_its_own_script_may_run(report: Report) -> None:
    html = page(report)
    policy = next(m["content"] or "" for m in Elements(html).all("meta") if "http-equiv" in m)
    for tag in ("style", "script"):
        text = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.S)[-1]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_script__writes_text_and_never_markup() -> None:
    js = JS.read_text()
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|</script", js)


def test_header__groups_span_their_columns(report: Report) -> None:
    upper, lower = module._header(report.tables[0])
    assert [(h.text, h.columns, h.rows, h.column) for h in upper] == [
        ("Method", 1, 2, 0),
        ("scenes", 2, 1, None),
        ("Words", 1, 2, 3),
    ]
    assert [(h.text, h.column) for h in lower] == [("Linear", 1), ("kNN", 2)]


def test_cells__lead_to_their_runs(report: Report) -> None:
    elements = Elements(page(report))
    links = [link for link in elements.all("a") if (link["href"] or "").startswith("#run-")]
    assert [(link["href"], link.get("data-runs")) for link in links] == [
        ("#run-0", "0,1"),
        ("#run-2", "2,3"),
        ("#run-4", "4,5"),
        ("#run-6", None),
    ]


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_cells__sort_by_numbers_only(report: Report, value: float | None) -> None:
    table = replace(report.tables[0], rows=[Row("a", [Cell("x", value=value)])])
    html = page(replace(report, sections=[Section("S", tables=[table])]))
    assert "data-value" not in re.sub("<script.*</script>", "", html, flags=re.S)


def test_configurations__are_there_once_for_all_seeds(report: Report) -> None:
    html = page(report)
    details = data(html, "run-data")
    assert details["configs"]["00000001"] == "epochs: 4\nlr: 0.1\n"
    assert [run["hash8"] for run in details["runs"][:3]] == ["00000000", "00000000", "00000001"]
    assert "command: run.py 'seed=0 1'" in details["runs"][0]["provenance"]


def test_log__is_what_a_terminal_shows_at_the_end() -> None:
    assert module._log("\x1b[1ma\x1b[0m\r\n 1%\r 2%\nb\r\nc\r") == "a\n 2%\nb\nc"
    long = module._log("x" * 1_000_000)
    assert len(long) < 11_000
    assert long.startswith("…")


def test_picture__that_is_none_is_named(report: Report, tmp_path: Path) -> None:
    (tmp_path / "odd.png").write_bytes(b"GIF89a")
    section = Section("S", pictures=[Picture("t", "x", tmp_path / "odd.png")])
    with pytest.raises(ValueError, match=r"odd\.png is no PNG"):
        page(replace(report, sections=[section]))


def test_size__a_thousand_runs_of_two_hundred_configurations(
    report: Report, tmp_path: Path
) -> None:
    config = {f"key{k}": {"value": k, "name": "x" * 10} for k in range(150)}
    runs = [
        run_page(tmp_path, f"Method {k // 5}", k % 5, f"{k // 5:08}", log="step loss\n" * 2000)
        for k in range(1000)
    ]
    folders = [tuple(run.folder for run in runs[k : k + 5]) for k in range(0, 1000, 5)]
    rows = [
        Row(f"{k}", [Cell("1.00 ± 1.00", value=1.0, runs=own)] * 10)
        for k, own in enumerate(folders)
    ]
    table = replace(report.tables[0], rows=rows, columns=[Column(f"{k}") for k in range(10)])
    configs = {f"{k:08}": config for k in range(200)}
    html = page(Report("Big", [], [Section("S", tables=[table])], runs, configs))
    assert len(html.encode()) < 25_000_000


def test_size__of_masks_of_a_demo(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    runs = []
    for k in range(7):
        paths = snapshots(tmp_path / f"{k}", steps=range(0, 90, 10), slots=4, size=32)
        for path in paths:  # as hard to compress as can be
            arrays = dict(np.load(path))
            arrays["masks"] = rng.integers(0, 256, arrays["masks"].shape).astype(np.uint8)
            np.savez(path, **arrays)  # type: ignore[arg-type]
        runs.append(run_page(tmp_path, f"{k}", 0, f"{k}", snapshots=paths))
    assert len(page(Report("Demo", [], [], runs)).encode()) < 5_000_000


def test_galleries__first_seed_of_the_first_configurations(tmp_path: Path) -> None:
    paths = snapshots(tmp_path / "masks")
    runs = [
        run_page(tmp_path, f"{k}", seed, f"{k}", snapshots=paths)
        for k in range(CONFIGURATIONS + 2)
        for seed in (1, 0)
    ]
    found = galleries(runs)
    assert len(found.shown) == 1
    assert [(s.label, s.seed) for s in found.strips] == [(f"{k}", 0) for k in range(12)]
    assert "The first 12 of 14 configurations are shown." in page(Report("R", [], [], runs))


def test_galleries__other_images_are_apart(tmp_path: Path) -> None:
    runs = [
        run_page(tmp_path, f"{k}", 0, f"{k}", snapshots=snapshots(tmp_path / f"{k}", seed=k % 2))
        for k in range(3)
    ]
    labels = [[strip.label for strip in gallery.strips] for gallery in galleries(runs).shown]
    assert labels == [["0", "2"], ["1"]]


def test_galleries__strips_show_what_is_hidden_and_stay_aligned(tmp_path: Path) -> None:
    runs = [
        run_page(tmp_path, f"{k}", 0, f"{k}", snapshots=snapshots(tmp_path / f"{k}", slots=k))
        for k in (1, 3)
    ]
    few, many = galleries(runs).strips
    assert (few.width, few.height) == (many.width, many.height) == (4 * (3 * 10 + 4), 10)
    assert [frame.share for frame in few.frames] == [0, 50, 100]
    assert [frame.hidden for frame in few.frames] == ["0% hidden", "50% hidden", "100% hidden"]
    assert few.frames[1].when == "step 20, epoch 2"
    assert few.frames[1].alt.startswith("Masks of 1 on 4 images, 1 mask each, at step 20, epoch 2")
    first, last = (_pixels(few.frames[k].src) for k in (0, -1))
    assert first[5, 5].tolist() == [0, 0, 0, 255]
    assert last[5, 5].tolist() == [255, 255, 255, 255]
    assert last[5, 15, 3] == 0  # a slot that it lacks is transparent


def _pixels(src: str) -> np.ndarray:
    png = base64.b64decode(src.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def test_galleries__an_unfinished_training_is_not_at_its_end(tmp_path: Path) -> None:
    run = run_page(tmp_path, "a", 0, "h", snapshots=snapshots(tmp_path / "m"))
    assert galleries([run], {"h": {"epochs": 16}}).moments == [0, 12, 25]
    assert galleries([run], {"h": {"epochs": None}}).moments == [0, 50, 100]
    assert galleries([run], {"h": {"epochs": "many"}}).moments == [0, 50, 100]


def test_read_snapshot__large_images_are_averaged_down(tmp_path: Path) -> None:
    (path,) = snapshots(tmp_path, steps=[8], size=130)
    found = read_snapshot(path)
    assert found.images.shape == (4, 3, 43, 43)
    assert found.masks.min() == 255


@pytest.mark.parametrize(
    "changes",
    [
        {"masks": None},
        {"step": None},
        {"masks": np.zeros((5, 2, 8, 9), np.uint8)},
        {"masks": np.zeros((5, 2, 8, 8), np.float32)},
        {"masks": np.zeros((5, 0, 8, 8), np.uint8)},
        {"masks": np.array(0, np.uint8)},
        {"images": np.zeros((5, 1, 8, 8), np.uint8)},
        {"epoch": np.array(np.nan)},
        {"epoch": np.array("2")},
        {"step": np.array([1, 2])},
        {"step": np.array(-1)},
    ],
)
def test_read_snapshot__broken_file_is_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    (path,) = snapshots(tmp_path, steps=[8])
    arrays = {k: v for k, v in (dict(np.load(path)) | changes).items() if v is not None}
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"step00000008\.npz is broken"):
        read_snapshot(path)


def test_galleries__images_that_change_within_a_run_are_named(tmp_path: Path) -> None:
    paths = [*snapshots(tmp_path / "a"), *snapshots(tmp_path / "b", steps=[80], seed=1)]
    with pytest.raises(ValueError, match=r"step00000080\.npz is broken \(its images"):
        galleries([run_page(tmp_path, "a", 0, "h", snapshots=paths)])


def colours(selector: str) -> dict[str, str]:
    block = re.search(rf"{re.escape(selector)} {{(.*?)}}", CSS.read_text(), re.S)
    assert block
    return dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", block[1]))


def contrast(a: str, b: str) -> float:
    """Of WCAG 2.2."""

    def luminance(colour: str) -> float:
        shares = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
        return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))

    dark, light = sorted(map(luminance, (a, b)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast__is_that_of_wcag() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("selector", [":root", ':root[data-theme="dark"]'])
def test_style__is_legible_in_both_themes(selector: str) -> None:
    used = colours(selector)
    for ground in ("paper", "panel"):
        for text in ("ink", "faint", "link"):
            assert contrast(used[text], used[ground]) >= 4.5, (text, ground)
        for edge in ("edge", "focus"):
            assert contrast(used[edge], used[ground]) >= 3, (edge, ground)


def test_style__chosen_and_preferred_dark_are_the_same() -> None:
    assert colours(':root[data-theme="dark"]') == colours(':root:not([data-theme="light"])')
    assert set(colours(":root")) == set(colours(':root[data-theme="dark"]'))
    assert not re.search(
        r"(?<!-)color: #|background: #(?!fff;)", CSS.read_text().replace("--", "-")
    )
