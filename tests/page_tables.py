"""The tables of a confirmation's page, read back; and whether a cell says what it should.

What it should say is a text, an int, a float, an interval, None, or a function that says whether a number is right.
"""

import math
from html.parser import HTMLParser

UNKNOWN = "\u2013"
P_COLUMNS = {"t p", "sign-flip p", "p with looks", "p with Holm", "p refuting", "refuting with Holm"}


class Tables(HTMLParser):
    """Of a page by their ids: rows, each a text by its column's name."""

    def __init__(self, page):
        super().__init__()
        self.found, self.cells, self.inside = {}, None, False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        if tag == "table":
            self.found[dict(attrs)["id"]] = self.rows = []
        elif tag == "tr":
            self.cells = []
        elif tag in ("th", "td"):
            self.cells.append("")
            self.inside = True

    def handle_endtag(self, tag):
        if tag in ("th", "td"):
            self.inside = False
        elif tag == "tr":
            self.rows.append([" ".join(cell.split()) for cell in self.cells])

    def handle_data(self, data):
        if self.inside:
            self.cells[-1] += data


def tables(page):
    found = Tables(page).found
    for name, (heads, *rows) in found.items():
        assert len(set(heads)) == len(heads), name
        found[name] = [dict(zip(heads, row, strict=True)) for row in rows]
    return found


def value(text):
    return float(text.replace("\u2212", "-").replace(",", ""))


def right(column, text, wanted):
    """Whether a cell says what it should, but for its rounding."""
    if wanted is None:
        return text == UNKNOWN
    if isinstance(wanted, str):
        return text == wanted
    if isinstance(wanted, tuple):
        ends = text.split(" to ")
        return len(ends) == 2 and all(map(right, (column, column), ends, wanted))
    if text in (UNKNOWN, ""):
        return False
    if callable(wanted):
        return wanted(value(text))
    if isinstance(wanted, int):
        return value(text) == wanted
    if column in P_COLUMNS or column in ("lr", "of the proxy's"):
        return math.isclose(value(text), wanted, rel_tol=0.0051 if column in P_COLUMNS else 1e-5)
    decimals = len(text.partition(".")[2])
    return decimals >= 3 and abs(value(text) - wanted) <= 0.5001 * 10.0**-decimals + 1e-12
