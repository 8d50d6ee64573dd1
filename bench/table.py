"""Rows, and how they look."""

import dataclasses
import statistics


@dataclasses.dataclass
class Row:
    what: str
    who: str
    value: str
    spread: str = ""
    ratio: str = ""


def median(values):
    return statistics.median(values)


def p95(values):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]


def p99(values):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]


def ms(value):
    return f"{value:.1f} ms"


def mb(value):
    return f"{value / 1e6:.2f} MB"


def per_second(value):
    return f"{value:,.1f}/s" if value < 1000 else f"{value:,.0f}/s"


def markdown(rows):
    cells = [["what", "who", "median", "p95, p99 or most", "ratio"]]
    cells += [[row.what, row.who, row.value, row.spread, row.ratio] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths)) + " |" for line in cells]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
