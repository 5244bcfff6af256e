"""The page of a confirmation in a real browser."""

from pathlib import Path

import pytest
from browser import opened
from lpanas.search.conclude import conclude
from lpanas.search.variants import variants
from lpanas.search.verdict_page import write_page
from recomputed import read

REFERENCE = Path(__file__).parents[1] / "runs" / "reference" / "2026-11-25_prose" / "confirm"


@pytest.fixture(scope="module")
def verdict(tmp_path_factory):
    """The page of the confirmation that is kept."""
    space, records = read(REFERENCE)
    return write_page(conclude(space, variants(space, {}), records), space, tmp_path_factory.mktemp("confirm"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_it_is_drawn_fits_and_can_be_read(chromium, verdict, width, scheme):
    with opened(chromium, verdict, width, scheme) as shown:
        shown.shoot(f"verdict_{width}_{scheme}")
        shown.check()


def test_its_tables_are_moved_by_the_keyboard(chromium, verdict):
    with opened(chromium, verdict, 390) as shown:
        page = shown.page
        for _ in range(50):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.querySelector('#comparisons') !== null"):
                break
        page.keyboard.press("ArrowRight")
        page.wait_for_function("document.activeElement.scrollLeft > 0")
