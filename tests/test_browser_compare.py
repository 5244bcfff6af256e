"""The page of several studies in a real browser."""

import pytest
from browser import opened
from compared import CASES
from lpanas.search.compare import Comparison
from lpanas.search.compare_page import write_comparison


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
@pytest.mark.parametrize("case", ["two", "eight", "odd names", "nothing"])
def test_it_is_drawn_fits_and_can_be_read(chromium, tmp_path, case, width, scheme):
    page = write_comparison(Comparison(CASES[case]), tmp_path / "compare.html")
    with opened(chromium, page, width, scheme) as shown:
        shown.shoot(f"compare_{case.replace(' ', '_')}_{width}_{scheme}")
        shown.check()
        assert shown.page.evaluate("window.harmed === undefined")
