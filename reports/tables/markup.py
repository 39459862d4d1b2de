"""A table as text: Markdown for the terminal and the web, LaTeX (booktabs) for the paper."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import pandas as pd
from pandas.io.formats.style import Styler

Mark = Literal["", "best", "tied", "decided"]


@dataclass(frozen=True)
class Column:
    """A column; neighbours of one group stand under its name."""

    heading: str
    group: str = ""

    @property
    def name(self) -> str:
        """In one line."""
        return f"{self.group}: {self.heading}" if self.group else self.heading


@dataclass(frozen=True)
class Cell:
    """What a reader sees in one place of a table.

    Attributes:
        text: the number, or the words.
        remark: small print: how many seeds the number stands on, why there is none.
        mark: "best" is bold, as is "decided", which is no matter of being the best of a column;
            "tied" with the best is underlined.
        value: to sort by, where the text is a number.
        runs: folders behind it.
    """

    text: str = ""
    remark: str = ""
    mark: Mark = ""
    value: float | None = None
    runs: tuple[str, ...] = ()

    @property
    def plain(self) -> str:
        """Without marks."""
        return f"{self.text} {self.remark}".strip() or "–"

    @property
    def emphasis(self) -> Literal["", "bold", "underline"]:
        """How the mark is drawn."""
        return _EMPHASIS[self.mark]


_EMPHASIS: dict[Mark, Literal["", "bold", "underline"]] = {
    "": "",
    "best": "bold",
    "decided": "bold",
    "tied": "underline",
}
_STYLES = {"": "", "bold": "font-weight: bold", "underline": "text-decoration: underline"}


def number_cell(value: float, form: str = ".2f") -> Cell:
    """A number as ``form`` has it; empty where there is none."""
    return Cell() if math.isnan(value) else Cell(format(value, form), value=value)


def p_cell(p: float) -> Cell:
    """A p-value; empty where there is none."""
    return Cell() if math.isnan(p) else Cell("< 0.001" if p < 0.001 else f"{p:.3f}", value=p)


@dataclass(frozen=True)
class Row:
    """A line; those of the block "controls" take no part in the comparison, and are italic."""

    label: str
    cells: Sequence[Cell]
    block: str = "methods"


@dataclass(frozen=True)
class Table:
    """All that a reader of a table sees.

    Attributes:
        name: of its files.
        title: "Table 1", or what it is called.
        caption: what the numbers are.
        columns: beside the first one, of labels.
        rows: those of a block stand together.
        notes: sentences below it.
        details: sentences that a paper has elsewhere, such as protocols.
        head: of the column of labels.
        data: the numbers behind it, for the CSV.
    """

    name: str
    title: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    details: Sequence[str] = ()
    head: str = "Method"
    data: pd.DataFrame | None = None

    def markdown(self) -> str:
        """GitHub Markdown, padded so that it also reads well unrendered."""
        header = [self.head, *(column.name for column in self.columns)]
        body = [
            [_emphasised(row.label, row), *(_emphasised(_marked(c), row) for c in row.cells)]
            for row in self.rows
        ]
        notes = [*self.notes, *self.details]
        return markdown_grid(f"**{self.title}.** {self.caption}", [header, *body], notes)

    def latex(self) -> str:
        """A LaTeX file that compiles alone, and where it is pasted or read by ``input``.

        The details are comments in it.
        """
        details = [f"% {' '.join(detail.split())}" for detail in self.details]
        return "\n".join([_ALONE, *details, *_floats(self), r"\maskbenchend", ""])

    def csv(self) -> str:
        """The numbers behind it, or what it shows."""
        return self.frame().to_csv(index=False, lineterminator="\n")

    def styled(self) -> Styler:
        """What it shows as a pandas Styler, with its marks: for a notebook."""
        names = [self.head, *(column.name for column in self.columns)]
        lines = [[row.label, *(cell.plain for cell in row.cells)] for row in self.rows]
        styles = [["", *(_STYLES[cell.emphasis] for cell in row.cells)] for row in self.rows]
        shown = pd.DataFrame(lines, columns=names)
        return (
            shown.style.apply(lambda _: pd.DataFrame(styles, columns=names), axis=None)
            .set_caption(self.caption)
            .hide(axis="index")
        )

    def _repr_html_(self) -> str:
        return str(self.styled().to_html())

    def frame(self) -> pd.DataFrame:
        """The numbers behind it, or what it shows."""
        if self.data is not None:
            return self.data
        names = [self.head, *(column.name for column in self.columns)]
        return pd.DataFrame(
            [[row.label, *(cell.plain for cell in row.cells)] for row in self.rows], columns=names
        )


def markdown_grid(caption: str, rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """Write cells, of which the first row is the header, between a caption and notes."""
    padded = [[" ".join(text.replace("|", r"\|").split()) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*padded, strict=True)]
    padded.insert(1, ["-" * width for width in widths])
    grid = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in padded]
    return "\n".join([caption, "", *grid, "", *(f"- {note}" for note in notes), ""])


def _marked(cell: Cell) -> str:
    drawn = {"bold": f"**{cell.text}**", "underline": f"<u>{cell.text}</u>"}
    number = drawn.get(cell.emphasis, cell.text)
    return f"{number} {cell.remark}".strip() or "–"


def _emphasised(text: str, row: Row) -> str:
    return f"*{text}*" if row.block == "controls" and text else text


# In a document that has begun, \@nodocument means nothing, and nothing but the table is left of it.
_ALONE = r"""% Compiles alone; in an article, paste it or \input it, with \usepackage{booktabs}.
\expandafter\ifx\csname @nodocument\endcsname\relax
  \def\maskbenchbegin{}\def\maskbenchend{}
\else
  \documentclass{article}
  \usepackage{booktabs}
  \usepackage[margin=2cm]{geometry}
  \def\maskbenchbegin{\begin{document}}\def\maskbenchend{\end{document}}
\fi
\maskbenchbegin"""
_ROWS = 40  # of a float
_LINES = 52  # of small print on a page of an article, beside what a table has anyway


def _parts(table: Table) -> list[list[Row]]:
    """The rows of each float: as many as fit on a page with the caption and the notes."""
    caption = 1.3 * math.ceil(len(table.caption) / 68)
    notes = sum(math.ceil(len(note) / 80) for note in table.notes)
    room = max(10, min(_ROWS, _LINES - caption - notes))
    parts: list[list[Row]] = [[]]
    used = 0.0
    for row in table.rows:
        height = 1.5 if parts[-1] and row.block != parts[-1][-1].block else 1.0  # with the rule
        if used + height > room:
            parts.append([])
            used, height = 0.0, 1.0
        parts[-1].append(row)
        used += height
    return parts


def _floats(table: Table) -> Iterator[str]:
    """The lines of as many floats as the rows need; the notes are below the last one."""
    parts = _parts(table)
    for number, rows in enumerate(parts):
        continued = " (continued)" if number else ""
        label = f"tab:{table.name}" + (f"-{number + 1}" if number else "")
        yield from (
            r"\begin{table}[t]",
            r"\centering",
            rf"\caption{{{escape(table.caption if not number else table.title + continued)}}}",
            rf"\label{{{label}}}",
            r"\smallskip",
            r"\footnotesize\setlength{\tabcolsep}{4pt}",
        )
        yield from _tabular(table, rows)
        if table.notes and number + 1 == len(parts):
            yield from (
                r"\par\smallskip",
                r"\begin{minipage}{\linewidth}\footnotesize\raggedright",
                "\n\n".join(map(_note, table.notes)),  # an empty line starts a paragraph
                r"\end{minipage}",
            )
        yield r"\end{table}"


def _tabular(table: Table, rows: Sequence[Row]) -> Iterator[str]:
    heads, rules, start = [], [], 2
    for group, members in groupby(table.columns, key=lambda column: column.group):
        end = start + len(list(members)) - 1
        heads.append(rf"\multicolumn{{{end - start + 1}}}{{c}}{{{escape(group)}}}")
        rules += [rf"\cmidrule(lr){{{start}-{end}}}"] if group else []
        start = end + 1
    yield rf"\begin{{tabular}}{{@{{}}l{'c' * len(table.columns)}@{{}}}}"
    yield r"\toprule"
    if rules:
        yield " & ".join(["", *heads]).strip() + r" \\"
        yield " ".join(rules)
    heading = [escape(table.head), *(escape(column.heading) for column in table.columns)]
    yield " & ".join(heading) + r" \\"
    for _, block in groupby(rows, key=lambda row: row.block):
        yield r"\midrule"
        yield from map(_row, block)
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _row(row: Row) -> str:
    # A bracket or star that follows the end of a row would be its argument.
    label = re.sub(r"^(?=\s*[\[*])", "{}", escape(row.label))
    return " & ".join([label, *map(_drawn, row.cells)]) + r" \\"


def _drawn(cell: Cell) -> str:
    text = escape(cell.text)
    drawn = {"bold": rf"\textbf{{{text}}}", "underline": rf"\underline{{{text}}}"}
    number = drawn.get(cell.emphasis, text)
    # The count is small print: full-sized it makes the table wider than a text column.
    remark = rf"{{\scriptsize {escape(cell.remark)}}}" if cell.remark else ""
    return f"{number} {remark}".strip() or "--"


def _note(note: str) -> str:
    """A note; code in it, in backticks, has few spaces and may break after a comma or slash too."""
    parts = re.split(r"`([^`]*)`", note)
    code = [re.sub(r"([,/])", r"\1\\allowbreak{}", escape(part, _CODE)) for part in parts[1::2]]
    words = [escape(part) for part in parts[0::2]]
    pairs = zip(words, (*(rf"\texttt{{{part}}}" for part in code), ""), strict=True)
    return "".join(word + part for word, part in pairs)


_SPECIAL: dict[int, str] = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "±": r"$\pm$",
        "×": r"$\times$",
        "→": r"$\to$",
        "≤": r"$\leq$",
        "≥": r"$\geq$",
        "–": "--",
        "—": "---",
        **{char: f"\\{char}" for char in "{}$&%#_"},
    }
)


# Typewriter fonts have these themselves, and none that LaTeX would take them from.
_CODE = _SPECIAL | {ord(char): rf"\char{ord(char)}{{}}" for char in "\\~^<>|{}_"}
# Beside Latin letters, of which these take other fonts than those of plain LaTeX.
_UNKNOWN = "[^ -~À-ž]|[ÐÞðþĄąĐđĘęĦħĮįĸĿŀŉŊŋŦŧŲų]"


def escape(text: str, special: Mapping[int, str] = _SPECIAL) -> str:
    """Make text safe for LaTeX; a letter that pdflatex does not know becomes its code point.

    Args:
        text: of any letters.
        special: what stands for which of them, by code point.
    """
    plain = re.sub(r"\s", " ", text).translate(special)
    return re.sub(_UNKNOWN, lambda match: f"(U+{ord(match[0]):04X})", plain)
