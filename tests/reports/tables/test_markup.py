from __future__ import annotations

import re

import pandas as pd
import pytest

from reports.tables.markup import Cell, Column, Row, Table, escape

HOSTILE = "a_b & 50% #1 $x {y} ~^ \\input{z} <b> | é 猫"


COLUMNS = [Column("c0", "data"), Column("c1", "data"), Column("c2", "more")]


def table(rows: list[Row], columns: list[Column] = COLUMNS[:1], **changes) -> Table:
    about = {"name": "t", "title": "T", "caption": "What."} | changes
    return Table(columns=columns, rows=rows, **about)


def grid(text: str) -> list[str]:
    """Lines of the tabular that end a row."""
    inner = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    return [line for line in inner.splitlines() if line.endswith(r"\\")]


def test_cell__plain() -> None:
    assert Cell().plain == "–"
    assert Cell("1.00", "(n=1)", "best").plain == "1.00 (n=1)"


def test_markdown__marks_and_controls() -> None:
    cells = [Cell("1", "(n=2)", "best"), Cell("2", mark="tied"), Cell()]
    rows = [
        Row("a|b", cells),
        Row("control", [Cell("3"), Cell(remark="failed"), Cell()], "controls"),
    ]
    lines = (
        table(rows, columns=COLUMNS, notes=["One.", "Two."], details=["Three."])
        .markdown()
        .split("\n")
    )
    assert lines == [
        "**T.** What.",
        "",
        "| Method    | data: c0    | data: c1 | more: c2 |",
        "| --------- | ----------- | -------- | -------- |",
        "| a\\|b      | **1** (n=2) | <u>2</u> | –        |",
        "| *control* | *3*         | *failed* | *–*      |",
        "",
        "- One.",
        "- Two.",
        "- Three.",
        "",
    ]


def test_csv__what_is_behind_it_or_what_it_shows() -> None:
    rows = [Row("a", [Cell("1.00", "(n=2)", "best")])]
    assert table(rows).csv() == "Method,data: c0\na,1.00 (n=2)\n"
    assert table(rows, data=pd.DataFrame({"mean": [1.0]})).csv() == "mean\n1.0\n"


def test_latex__structure() -> None:
    cells = [Cell("44.00 ± 2.00", "(n=3)", "best"), Cell("1", mark="tied"), Cell()]
    rows = [Row("a", cells), Row("b", cells), Row("c", cells, "controls")]
    text = table(rows, columns=COLUMNS, notes=["A `b_c` d."], details=["Two\nlines."]).latex()
    for environment in ("table", "tabular", "minipage"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") == 1
    bare = re.sub(r"\\[{}]", "", text)
    assert bare.count("{") == bare.count("}")
    head, names, *lines = grid(text)
    assert head == r"& \multicolumn{2}{c}{data} & \multicolumn{1}{c}{more} \\"
    assert r"\cmidrule(lr){2-3} \cmidrule(lr){4-4}" in text
    assert names == r"Method & c0 & c1 & c2 \\"
    marked = r"\textbf{44.00 $\pm$ 2.00} {\scriptsize (n=3)} & \underline{1} & --"
    assert lines == [rf"{label} & {marked} \\" for label in "abc"]
    assert text.count(r"\midrule") == 2
    assert text.count(r"\label{tab:t}") == 1
    assert r"A \texttt{b\char95{}c} d." in text
    assert "% Two lines." in text


def test_latex__columns_without_a_group() -> None:
    text = table([], columns=[], head="Name").latex()
    assert grid(text) == [r"Name \\"]
    assert r"\cmidrule" not in text


def test_latex__more_than_40_rows_are_several_floats() -> None:
    rows = [Row(f"row {k}", [Cell(str(k))]) for k in range(85)]
    text = table(rows, notes=["The note."]).latex()
    floats = text.split(r"\begin{table}")[1:]
    assert [len(grid(part)) - 2 for part in floats] == [40, 40, 5]
    labels = re.findall(r"\\label\{(.*?)\}", text)
    assert labels == ["tab:t", "tab:t-2", "tab:t-3"]
    assert re.findall(r"\\caption\{(.*?)\}", text) == ["What.", *["T (continued)"] * 2]
    assert ["The note." in part for part in floats] == [False, False, True]


def test_latex__exactly_40_rows_are_one_float() -> None:
    text = table([Row(f"row {k}", [Cell()]) for k in range(40)]).latex()
    assert text.count(r"\begin{table}") == 1


@pytest.mark.parametrize("label", ["[1cm] x", "*x", " [y"])
def test_latex__a_label_is_no_argument_of_the_row_before(label: str) -> None:
    *_, line = grid(table([Row("a", [Cell()]), Row(label, [Cell()])]).latex())
    assert line == rf"{{}}{label} & -- \\"


def test_latex__hostile_words_everywhere() -> None:
    rows = [Row(HOSTILE, [Cell(HOSTILE, HOSTILE, "best")])]
    columns = [Column(HOSTILE, HOSTILE)]
    text = table(rows, columns=columns, caption=HOSTILE, notes=[HOSTILE], head=HOSTILE).latex()
    assert text.count(escape(HOSTILE)) == 8
    assert r"\input{z}" not in text
    assert "猫" not in text


def test_escape__special_characters() -> None:
    assert escape("a_b & 50% #1 $x {y} ~^") == (
        r"a\_b \& 50\% \#1 \$x \{y\} \textasciitilde{}\textasciicircum{}"
    )
    assert escape("é \\ – ×") == r"é \textbackslash{} -- $\times$"
    assert escape("猫") == "(U+732B)"


def test_escape__what_plain_latex_has_no_font_for() -> None:
    assert escape("Øst Łódź ÷") == "Øst Łódź ÷"
    assert escape("đ ų «") == "(U+0111) (U+0173) (U+00AB)"
    assert escape("\x00\x1b\x7f\u202e") == "(U+0000)(U+001B)(U+007F)(U+202E)"


def test_escape__no_paragraph_within_an_argument() -> None:
    assert escape("a\n\nb\tc\u00a0d") == "a  b c d"
