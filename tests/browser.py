"""A page in a real Chromium: what is drawn, what goes wrong, and whether it can be read."""

import base64
import os
import re
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--no-sandbox",  # root has none
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SCREENSHOTS = Path(__file__).parent / "screenshots"
DRAWN = """() => [...document.querySelectorAll('.plotly-graph-div')].every(
    div => [...div.querySelectorAll('svg.main-svg')].some(svg => svg.querySelector('path, text, rect, image')))"""
BLANK = """() => [...document.querySelectorAll('.plotly-graph-div')].filter(div => {
    const svg = div.querySelector('svg.main-svg'), seen = div.offsetParent !== null;
    return !svg || !svg.querySelector('path, text, rect, image') || seen && !(svg.clientWidth > 50 && svg.clientHeight > 50);
}).map(div => div.id)"""
WIDER = """() => [...document.body.querySelectorAll('*')].filter(one => {
    let above = one.parentElement;
    while (above && !['auto', 'scroll', 'hidden'].includes(getComputedStyle(above).overflowX)) above = above.parentElement;
    return !above && one.getBoundingClientRect().right > innerWidth + 0.5;
}).slice(0, 5).map(one => one.outerHTML.slice(0, 120))"""
AXE = """async tags => (await axe.run(document, {runOnly: {type: 'tag', values: tags}, resultTypes: ['violations']})).violations
    .flatMap(one => one.nodes.map(node => `${one.id} (${one.impact}): ${node.target}: ${node.failureSummary}`))"""
TEXTS = """() => [...document.querySelectorAll('.plotly-graph-div')].flatMap(div => {
    const filter = getComputedStyle(div).filter;
    return [...div.querySelectorAll('svg text, svg tspan')].map(text => {
        const style = getComputedStyle(text), own = [...text.childNodes].filter(node => node.nodeType === 3);
        let opacity = parseFloat(style.fillOpacity), shown = style.visibility !== 'hidden' && style.display !== 'none';
        for (let one = text; one && one !== div; one = one.parentElement) opacity *= parseFloat(getComputedStyle(one).opacity);
        const box = text.getBoundingClientRect();
        return {words: own.map(node => node.data).join('').trim(), shown, fill: style.fill, opacity, filter,
                box: [box.x + scrollX, box.y + scrollY, box.width, box.height],
                pixels: parseFloat(style.fontSize), weight: parseInt(style.fontWeight)};
    }).filter(one => one.shown && one.words && one.opacity > 0);
})"""
"""Of every text in a figure: its colour, its opacity with that of all around it, the filter it is seen through, its place."""
HIDDEN = "() => document.body.classList.toggle('without-words')"
UNDER = """async ([picture, boxes]) => {
    const image = new Image();
    image.src = 'data:image/png;base64,' + picture;
    await image.decode();
    const canvas = new OffscreenCanvas(image.width, image.height).getContext('2d');
    canvas.drawImage(image, 0, 0);
    return boxes.map(([x, y, width, height]) => {
        const counts = new Map(), pixels = canvas.getImageData(x, y, Math.max(width, 1), Math.max(height, 1)).data;
        for (let n = 0; n < pixels.length; n += 4) {
            const colour = `rgb(${pixels[n]}, ${pixels[n + 1]}, ${pixels[n + 2]})`;
            counts.set(colour, (counts.get(colour) ?? 0) + 1);
        }
        return [...counts].sort((a, b) => b[1] - a[1])[0][0];
    });
}"""
"""The colour that most of each box has in a picture."""

Colour = tuple[float, float, float]
"""Red, green and blue in sRGB, 0 to 1."""


def program() -> str | None:
    """The Chromium or Chrome of this machine: $BROWSER_PATH, or else one on PATH."""
    if named := os.environ.get("BROWSER_PATH"):
        return shutil.which(named)
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@contextmanager
def launched():
    """A browser of playwright's synchronous API. While it runs, this thread has a running event loop."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Opened:
    """A page of a browser, and what went wrong in it."""

    page: object
    errors: list[str] = field(default_factory=list)
    """What its console and its scripts say."""
    asked: list[str] = field(default_factory=list)
    """What it would load from elsewhere."""

    def check(self) -> None:
        """No error, nothing loaded, every figure drawn, no horizontal scroll, nothing that axe finds."""
        assert not self.asked, f"not in the file: {self.asked}"
        assert not self.errors, f"errors: {self.errors}"
        assert not (blank := self.page.evaluate(BLANK)), f"not drawn: {blank}"
        self.check_fits()
        self.check_axe()
        self.check_contrast()

    def check_fits(self) -> None:
        wide, room = self.page.evaluate("() => [document.scrollingElement.scrollWidth, innerWidth]")
        assert wide <= room, f"{wide} pixels in {room}: {self.page.evaluate(WIDER)}"

    def check_axe(self, *tags: str) -> None:
        """By default WCAG 2.0's levels A and AA."""
        from axe_core_python.base import AXE_SCRIPT

        if not self.page.evaluate("() => 'axe' in window"):
            self.page.evaluate(AXE_SCRIPT)
        found = self.page.evaluate(AXE, list(tags) or ["wcag2a", "wcag2aa"])
        assert not found, "\n\n".join(found)

    def check_contrast(self) -> None:
        """Of the texts in figures, which axe does not see."""
        paper = self.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
        doubtful = [one for one in self.page.evaluate(TEXTS) if _is_faint(one, paper)]
        below = self._below([one["box"] for one in doubtful]) if doubtful else []
        faint = [(one, paint) for one, paint in zip(doubtful, below, strict=True) if _is_faint(one, paint)]
        assert not faint, "\n".join(f"{one['words']}: {_ratio(one, paint):.2f} on {paint}" for one, paint in faint)

    def _below(self, boxes) -> list[str]:
        """What is painted behind texts: the colour of each box without them."""
        self.page.add_style_tag(content=".without-words .plotly-graph-div text { visibility: hidden !important; }")
        self.page.evaluate(HIDDEN)
        picture = self.page.screenshot(full_page=True)
        self.page.evaluate(HIDDEN)
        return self.page.evaluate(UNDER, [base64.b64encode(picture).decode(), boxes])

    def shoot(self, name: str) -> Path:
        """A picture of the whole page for people to look at."""
        path = SCREENSHOTS / f"{name}.png"
        self.page.screenshot(path=path, full_page=True)
        return path


@contextmanager
def opened(browser, path: Path, width: int = 1400, scheme: str = "light", height: int = 900):
    """The page of a file, drawn, without a network. scheme: `light` or `dark`."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, offline=True)
    try:
        it = Opened(context.new_page())
        it.page.on("console", lambda said: said.type == "error" and it.errors.append(said.text))
        it.page.on("pageerror", lambda error: it.errors.append(str(error)))
        it.page.on("request", lambda asked: asked.url.startswith(("file:", "data:", "blob:")) or it.asked.append(asked.url))
        it.page.goto(path.absolute().as_uri())
        _wait(it.page, DRAWN)
        yield it
    finally:
        context.close()


def _wait(page, condition: str, seconds: float = 3) -> None:
    """For what a page's scripts do after it is loaded; whoever checks says what was not done by then."""
    from playwright.sync_api import TimeoutError as TooLate

    with suppress(TooLate):
        page.wait_for_function(condition, timeout=1000 * seconds)


# contrast


def parsed(colour: str) -> tuple[Colour, float]:
    """A computed colour, `rgb(...)` or `rgba(...)`, and its alpha."""
    numbers = [float(number) for number in re.findall(r"[\d.]+", colour)]
    assert colour.startswith("rgb"), colour
    return tuple(number / 255 for number in numbers[:3]), numbers[3] if len(numbers) == 4 else 1.0


def luminance(colour: Colour) -> float:
    """Relative luminance, WCAG 2.0."""
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: Colour, other: Colour) -> float:
    """Contrast ratio, WCAG 2.0: from 1 to 21."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def least(pixels: float, weight: int = 400) -> float:
    """The contrast that a text of this size needs at level AA: large is 18 points, or 14 and bold."""
    return 3.0 if pixels >= 24 or (pixels >= 14 * 4 / 3 and weight >= 700) else 4.5


def filtered(colour: Colour, filters: str) -> Colour:
    """A colour seen through a CSS filter of `invert` and `hue-rotate`, or `none` (Filter Effects Module Level 1)."""
    for name, amount in re.findall(r"([a-z-]+)\(([\d.]+)(?:deg)?\)", filters):
        colour = {"invert": _inverted, "hue-rotate": _rotated}[name](colour, float(amount))
        colour = tuple(min(max(c, 0.0), 1.0) for c in colour)
    return colour


def _inverted(colour: Colour, amount: float) -> Colour:
    return tuple(amount + c * (1 - 2 * amount) for c in colour)


def _rotated(colour: Colour, degrees: float) -> Colour:
    """By the matrix of feColorMatrix's hueRotate; only for half a turn and a whole one, where its sine is zero."""
    turn = {0: 1, 180: -1, 360: 1}[degrees]
    share = (0.213, 0.715, 0.072)
    return tuple(
        sum((s + turn * ((row == column) - s)) * c for column, (s, c) in enumerate(zip(share, colour, strict=True)))
        for row in range(3)
    )


def seen(fill: str, opacity: float = 1.0, filters: str = "none") -> Colour:
    """A computed colour on white paper, seen through a filter."""
    colour, alpha = parsed(fill)
    alpha *= opacity
    return filtered(tuple(alpha * c + 1 - alpha for c in colour), filters)


def _ratio(text, below: str) -> float:
    return contrast(seen(text["fill"], text["opacity"], text["filter"]), seen(below))


def _is_faint(text, below: str) -> bool:
    return _ratio(text, below) < least(text["pixels"], text["weight"])
