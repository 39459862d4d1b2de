"""A table as text: Markdown for the terminal and the web, LaTeX (booktabs) for the paper."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby


def shown(number: float) -> str:
    """Two decimals, as in the paper."""
    return f"{number:.2f}"


def tie(a: float, b: float) -> bool:
    """Whether a reader of the table sees the same number."""
    return shown(a) == shown(b)


@dataclass(frozen=True)
class Column:
    """One evaluation; columns of one data set stand side by side under its name."""

    task: str
    data: str
    heading: str


@dataclass(frozen=True)
class Cell:
    """Seeds of one configuration under one evaluation: n finished, the rest did not.

    The results of those that are invalid are there and cannot be trusted.
    """

    mean: float
    std: float
    n: int
    failed: int
    missing: int
    invalid: int
    best: bool = False

    @property
    def number(self) -> str:
        """Mean and spread; empty when no seed finished."""
        if not self.n:
            return ""
        mean = shown(self.mean)
        return mean if self.n == 1 else f"{mean} ± {shown(self.std)}"

    @property
    def remark(self) -> str:
        """How many seeds the number stands on, or what became of them all."""
        lost = {"failed": self.failed, "invalid": self.invalid, "missing": self.missing}
        if not self.n:
            planned = sum(lost.values())
            return ", ".join(f"{what} ({k} of {planned})" for what, k in lost.items() if k)
        return f"({', '.join([f'n={self.n}', *(f'{k} {what}' for what, k in lost.items() if k)])})"


@dataclass(frozen=True)
class Table:
    """All that a reader of a table sees.

    Attributes:
        cells: by (row label, column); a pair that nobody planned is absent.
        controls: labels of the rows that frame the comparison without taking part in it.
        notes: sentences below the table.
    """

    number: int
    caption: str
    columns: Sequence[Column]
    methods: Sequence[str]
    controls: Sequence[str]
    cells: Mapping[tuple[str, Column], Cell]
    command: str
    notes: Sequence[str]


def markdown(table: Table) -> str:
    """Write the table as GitHub Markdown, padded so that it also reads well unrendered."""

    def draw(cell: Cell | None) -> str:
        if cell is None:
            return "–"
        number = f"**{cell.number}**" if cell.best else cell.number
        return f"{number} {cell.remark}".strip()

    header = ["Method", *(f"{column.data}: {column.heading}" for column in table.columns)]
    body = []
    for label in [*table.methods, *table.controls]:
        row = [label, *(draw(table.cells.get((label, column))) for column in table.columns)]
        body.append([f"*{text}*" for text in row] if label in table.controls else row)
    notes = [f"Command: `{table.command}`", *table.notes]
    caption = f"**Table {table.number}.** {table.caption}"
    return markdown_grid(caption, [header, *body], notes)


def markdown_grid(caption: str, rows: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """Write cells, of which the first row is the header, between a caption and notes."""
    padded = [[text.replace("|", r"\|") for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*padded, strict=True)]
    padded.insert(1, ["-" * width for width in widths])
    grid = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in padded]
    return "\n".join([caption, "", *grid, "", *(f"- {note}" for note in notes), ""])


def latex(table: Table) -> str:
    """Write the table as a LaTeX float that needs no package but booktabs."""

    def draw(cell: Cell | None) -> str:
        if cell is None:
            return "--"
        number = rf"\textbf{{{escape(cell.number)}}}" if cell.best else escape(cell.number)
        # The count is small print: full-sized it makes the table wider than a text column.
        return rf"{number} {{\scriptsize {escape(cell.remark)}}}".strip()

    def row(label: str) -> str:
        cells = (draw(table.cells.get((label, column))) for column in table.columns)
        return " & ".join([escape(label), *cells]) + r" \\"

    heads, rules, start = [], [], 2
    for data, group in groupby(table.columns, key=lambda column: column.data):
        end = start + len(list(group)) - 1
        heads.append(rf"\multicolumn{{{end - start + 1}}}{{c}}{{{escape(data)}}}")
        rules.append(rf"\cmidrule(lr){{{start}-{end}}}")
        start = end + 1
    blocks = [[row(label) for label in labels] for labels in (table.methods, table.controls)]
    # A command has few spaces, so it may also break after a comma or a slash.
    command = re.sub(r"([,/])", r"\1\\allowbreak{}", escape(table.command))
    notes = [rf"Command: \texttt{{{command}}}", *map(escape, table.notes)]
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{escape(table.caption)}}}",
        rf"\label{{tab:table{table.number}}}",
        r"\smallskip",
        r"\footnotesize\setlength{\tabcolsep}{4pt}",
        rf"\begin{{tabular}}{{@{{}}l{'c' * len(table.columns)}@{{}}}}",
        r"\toprule",
        " & ".join(["", *heads]).strip() + r" \\",
        " ".join(rules),
        " & ".join(["Method", *(escape(column.heading) for column in table.columns)]) + r" \\",
        *(line for block in blocks if block for line in (r"\midrule", *block)),
        r"\bottomrule",
        r"\end{tabular}",
        r"\par\smallskip",
        r"\begin{minipage}{\linewidth}\footnotesize\raggedright",
        "\n\n".join(notes),  # an empty line starts a paragraph
        r"\end{minipage}",
        r"\end{table}",
        "",
    ]
    return "\n".join(lines)


_SPECIAL = str.maketrans(
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


def escape(text: str) -> str:
    """Make text safe for LaTeX; a letter that pdflatex does not know becomes its code point."""
    return re.sub(
        r"[^\x00-\u017f]", lambda match: f"(U+{ord(match[0]):04X})", text.translate(_SPECIAL)
    )
