"""What browser.py finds: it knows a bad page, and its colours are WCAG's own examples and those that a browser shows."""

import base64

import plotly.graph_objects as go
import pytest
from browser import contrast, filtered, least, opened, seen
from lpanas.search.page import div
from plotly.offline import get_plotlyjs

DARK = "invert(0.9) hue-rotate(180deg)"
BLACK, WHITE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
SWATCHES = [
    "#ffffff",
    "#000000",
    "#1a1a1a",
    "#444444",
    "#666666",
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#ff0000",
]
PIXELS = """async ([picture, count]) => {
    const image = new Image();
    image.src = 'data:image/png;base64,' + picture;
    await image.decode();
    const canvas = new OffscreenCanvas(image.width, image.height).getContext('2d');
    canvas.drawImage(image, 0, 0);
    return [...Array(count).keys()].map(n => [...canvas.getImageData(20 * n + 10, 10, 1, 1).data.slice(0, 3)]);
}"""


def colour(code):
    return tuple(int(code[place : place + 2], 16) / 255 for place in (1, 3, 5))


@pytest.mark.parametrize(
    ("one", "other", "ratio"),
    [
        ("#000000", "#ffffff", 21.0),
        ("#777777", "#ffffff", 4.48),  # the lightest grey that fails, and the next, which passes
        ("#767676", "#ffffff", 4.54),
        ("#ff0000", "#ffffff", 4.00),
        ("#0000ff", "#ffffff", 8.59),
        ("#ffffff", "#ffffff", 1.0),
    ],
)
def test_contrast_is_wcags(one, other, ratio):
    assert contrast(colour(one), colour(other)) == pytest.approx(ratio, abs=0.005)
    assert contrast(colour(other), colour(one)) == contrast(colour(one), colour(other))


def test_large_text_needs_less():
    assert [least(12), least(23.9), least(24), least(18.6, 700), least(18.7, 700), least(18.7)] == [4.5, 4.5, 3, 4.5, 3, 4.5]


def test_a_colour_that_is_half_there_is_half_paper():
    assert seen("rgb(0, 0, 0)", 0.5, "none") == (0.5, 0.5, 0.5)
    assert seen("rgba(0, 0, 0, 0.5)", 0.5, "none") == (0.75, 0.75, 0.75)
    assert seen("rgba(0, 0, 0, 0)", 1.0, "none") == WHITE


def test_an_inverted_page_is_dark_and_its_greys_stay_grey():
    assert filtered(WHITE, DARK) == pytest.approx((0.1, 0.1, 0.1))
    assert filtered(BLACK, DARK) == pytest.approx((0.9, 0.9, 0.9))
    assert filtered(BLACK, "none") == BLACK


@pytest.mark.parametrize("filters", [DARK, "invert(1)", "hue-rotate(180deg)", "none"])
def test_a_filtered_colour_is_what_a_browser_shows(chromium, filters):
    page = chromium.new_page()
    boxes = "".join(f"<div style='width:20px;height:20px;background:{code}'></div>" for code in SWATCHES)
    page.set_content(f"<body style='margin:0'><div style='display:flex;filter:{filters}'>{boxes}</div>")
    shown = page.evaluate(PIXELS, [base64.b64encode(page.screenshot()).decode(), len(SWATCHES)])
    page.close()
    for code, pixel in zip(SWATCHES, shown, strict=True):
        assert [255 * c for c in filtered(colour(code), filters)] == pytest.approx(pixel, abs=1.5), code


def heatmap(colour):
    drawing = go.Figure(go.Heatmap(z=[[1]], text=[["pale"]], texttemplate="%{text}", textfont_color="#ffffff", showscale=False))
    return div(drawing.update_traces(colorscale=[[0, colour], [1, colour]]).update_layout(height=300))


GOOD = div(go.Figure(go.Scatter(x=[1, 2], y=[3, 4]), {"height": 300, "font": {"color": "#666666"}}))
DARKENED = f"<style>body {{ background: #1a1a1a; }} .plotly-graph-div {{ filter: {DARK}; }}</style>"
BAD = {
    "an error": ("errors", GOOD + "<script>missing()</script>"),
    "a console error": ("errors", GOOD + "<script>console.error('no')</script>"),
    "a script from elsewhere": ("not in the file", GOOD + "<script>fetch('https://example.com/').catch(() => 0)</script>"),
    "a figure without a drawing": ("not drawn", GOOD + "<div class='plotly-graph-div'><svg class='main-svg'></svg></div>"),
    "a wide line": ("pixels in", GOOD + "<div style='width: 2000px'>wide</div>"),
    "a faint line": ("color-contrast", GOOD + "<p style='color: #999'>faint</p>"),
    "a faint figure": (": 2.85", GOOD.replace("#666666", "#999999")),
    "faint words on a mark": ("pale: 2.85", heatmap("#999999")),
    "a faint figure in the dark": (": 3.98", DARKENED + GOOD.replace("#666666", "#888888")),
}


def written(folder, body):
    page = folder / "page.html"
    head = f"<meta charset='utf-8'><title>page</title><script>{get_plotlyjs()}</script>"
    page.write_text(f"<!doctype html><html lang='en'><head>{head}</head><body>{body}</body></html>", encoding="utf-8")
    return page


def test_a_page_that_is_right_passes(chromium, tmp_path):
    with opened(chromium, written(tmp_path, GOOD + heatmap("#666666"))) as shown:
        shown.check()


@pytest.mark.parametrize("case", BAD)
def test_a_page_that_is_not_is_told(chromium, tmp_path, case):
    what, body = BAD[case]
    with opened(chromium, written(tmp_path, body)) as shown, pytest.raises(AssertionError, match=what):
        shown.check()
