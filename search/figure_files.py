"""Figures as files: pictures for papers, which the system's Chromium draws, and the rows of each as CSV."""

import asyncio
import logging
import os
import shutil
import warnings
from collections.abc import Coroutine, Generator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import TypeVar

import plotly.graph_objects as go

from ..lpa.config import UserError, nearest, one_line
from ..lpa.draft import draft_of
from .figure import Figure

PICTURES = ("svg", "png", "pdf")
ROWS = "csv"
"""Written with any format, and asked for alone where there is no browser."""
WIDTH, HEIGHT = 900, 560
"""Pixels of a picture, where the drawing does not say how high it is: with 12-pixel text, legible at the width of a page of
text (assumption)."""
SCALE = 2
"""Of a png: pixels of the picture a pixel of the drawing."""
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
"""Programs, the first that is here; none is ever downloaded."""
FONT = "Arial, Helvetica, Liberation Sans, sans-serif"
"""Of one width and on every system, so that an svg looks the same wherever it is opened."""
START_SECONDS, SECONDS = 30.0, 10.0
"""A browser that takes longer to start, and for each picture, is given up (assumption; it takes 1 and 0.3)."""

T = TypeVar("T")


def read_formats(words: str) -> tuple[str, ...]:
    """The formats that `svg,pdf` names, each once. Raises UserError: another word, or what draws them is not here."""
    formats = tuple(dict.fromkeys(word.strip().lower() for word in words.split(",")))
    known = (*PICTURES, ROWS)
    for word in formats:
        if word not in known:
            raise UserError(f"--figures {words}: unknown format '{word}', {nearest(word, known)}")
    if any(word in PICTURES for word in formats):
        browser()
    return formats


def browser() -> Path:
    """The Chromium or Chrome that draws. Raises UserError: there is none, or no kaleido, which tells it what to draw."""
    try:
        from kaleido import write_fig_from_object  # noqa: F401 - kaleido 0 has none
    except ImportError:
        raise UserError("--figures: kaleido is not installed: pip install 'lpanas[figures]'") from None
    named = os.environ.get("BROWSER_PATH")
    for name in (named,) if named else BROWSERS:
        if (path := shutil.which(name)) is not None:
            return Path(path)
    if named:
        raise UserError(f"--figures: BROWSER_PATH={named}: no such program")
    raise UserError(
        "--figures: neither Chromium nor Chrome is installed: `apt-get install chromium` on Debian, otherwise Google Chrome; "
        "BROWSER_PATH names one that lies elsewhere"
    )


def write_files(figures: Sequence[Figure], folder: Path, formats: Sequence[str]) -> list[Path]:
    """NAME.csv of each figure, and a picture in each format of what has something drawn; all of them or none. Returns their
    paths. Raises UserError."""
    pictures = [(figure, format) for figure in figures if figure.drawing.data for format in formats if format in PICTURES]
    program = browser() if pictures else None
    try:
        with draft_of(folder) as draft:
            paths = [draft / f"{figure.name}.{ROWS}" for figure in figures]
            for figure, path in zip(figures, paths, strict=True):
                figure.rows.to_csv(path, index=False)
            if program is not None:
                paths += _draw(pictures, draft, program)
            folder.mkdir(exist_ok=True)
            return [path.replace(folder / path.name) for path in paths]
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror or one_line(error)}") from None


def _draw(pictures: Sequence[tuple[Figure, str]], folder: Path, program: Path) -> list[Path]:
    """All in one browser, which takes longer to start than to draw. Raises UserError."""
    asked: list[dict[str, object]] = [
        {
            "fig": _on_paper(figure),
            "path": folder / f"{figure.name}.{format}",
            "opts": {"format": format, "scale": SCALE if format == "png" else 1},
        }
        for figure, format in pictures
    ]
    seconds = START_SECONDS + SECONDS * len(asked)
    try:
        with _silent():
            errors = _apart(_drawn(asked, program), seconds)
    except TimeoutError:
        raise UserError(f"--figures: {program} does not draw: it takes more than {seconds:.0f} s") from None
    except Exception as error:  # of a program that is no browser, or has crashed
        why = error.args[0] if error.args else type(error).__name__
        raise UserError(f"--figures: {program} does not draw: {one_line(Exception(why))}") from None
    paths = [folder / f"{figure.name}.{format}" for figure, format in pictures]
    for path in paths:
        if errors or not path.is_file() or not path.stat().st_size:
            why = one_line(errors[0]) if errors else "nothing"
            raise UserError(f"--figures: {program} does not draw {path.name}: {why}")
    return paths


async def _drawn(asked: Sequence[dict[str, object]], program: Path) -> Sequence[Exception]:
    """What went wrong, a picture each."""
    import kaleido

    how = {"path": program, "timeout": None, "mathjax": False}  # its MathJax would be loaded from a server
    return await kaleido.write_fig_from_object(asked, kopts=how) or ()


def _apart(work: Coroutine[None, None, T], seconds: float) -> T:
    """The result of a coroutine, by an event loop of its own: this thread may run one, as a notebook's does. What hangs does
    not keep the program from ending. Raises TimeoutError."""
    ended = Future[T]()

    def run() -> None:
        try:
            ended.set_result(asyncio.run(work))
        except BaseException as error:
            ended.set_exception(error)

    Thread(target=run, daemon=True).start()
    return ended.result(seconds)


def _on_paper(figure: Figure) -> go.Figure:
    drawing = go.Figure(figure.drawing)
    height = drawing["layout"]["height"] or HEIGHT
    drawing.update_layout(width=WIDTH, height=height, font_family=FONT, paper_bgcolor="white")
    return drawing


@contextmanager
def _silent() -> Generator[None]:
    """What the browser and kaleido say goes to Python's log and warnings, of which nothing is shown."""
    before = logging.root.manager.disable
    logging.disable()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)
