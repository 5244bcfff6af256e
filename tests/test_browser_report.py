"""The page of a search in a real browser: what is clicked, typed and pressed."""

import csv
from contextlib import contextmanager

import pytest
from browser import BLANK, opened
from lpanas.search.report import write_report
from studies import ODD, study

STUDIES = {"twenty": lambda: study(20)} | {
    name: ODD[name] for name in ("one record", "none complete", "three objectives", "odd names")
}
SETTLED = "document.documentElement.dataset.settled === 'yes'"
READY = "document.documentElement.dataset.drawn === 'all'"
SHOWN = "[...document.querySelectorAll('#records tbody tr')].filter(row => !row.hidden).map(row => row.cells[0].textContent)"
MARKED = """[...document.querySelectorAll('.plotly-graph-div')].filter(div => div.data.some(trace =>
    trace.meta === 'selected' && trace.x.length)).map(div => div.id)"""
HOLDING = """run => [...document.querySelectorAll('.plotly-graph-div')].filter(div => div.data.some(trace =>
    trace.hovertemplate?.startsWith('%{text}') && trace.customdata.includes(run))).map(div => div.id)"""
POINT = """([id, run]) => {
    const div = document.getElementById(id), box = div.getBoundingClientRect(), {xaxis, yaxis} = div._fullLayout;
    const trace = div.data.find(one => one.hovertemplate?.startsWith('%{text}') && one.customdata.includes(run));
    const place = trace.customdata.indexOf(run);
    return [box.x + xaxis._offset + xaxis.l2p(xaxis.d2l(trace.x[place])), box.y + yaxis._offset + yaxis.l2p(trace.y[place])];
}"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The results and the page of a study; each is made once."""
    known = {}

    def make(name):
        if name not in known:
            found = STUDIES[name]()
            known[name] = found, write_report(found, tmp_path_factory.mktemp("a study"))
        return known[name]

    return make


@contextmanager
def whole(chromium, made, name="twenty", width=1400, scheme="light"):
    """Opened, with all figures drawn; nothing goes wrong in it, whatever is done."""
    with opened(chromium, made(name)[1], width, scheme) as shown:
        shown.page.wait_for_function(READY)
        yield shown
        assert (shown.errors, shown.asked) == ([], [])


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
@pytest.mark.parametrize("name", STUDIES)
def test_it_is_drawn_fits_and_can_be_read(chromium, made, name, width, scheme):
    with whole(chromium, made, name, width, scheme) as shown:
        shown.shoot(f"report_{name.replace(' ', '_')}_{width}_{scheme}")
        shown.check()
        assert shown.page.evaluate("window.harmed === undefined")


@pytest.mark.parametrize("name", [name for name in ODD if name not in STUDIES])
def test_odd_studies_are_drawn_without_an_error(chromium, tmp_path, name):
    with opened(chromium, write_report(ODD[name](), tmp_path), 390) as shown:
        shown.page.wait_for_function(READY)
        shown.check_fits()
        assert (shown.errors, shown.asked, shown.page.evaluate(BLANK)) == ([], [], [])


@pytest.mark.parametrize(("width", "scheme"), [(1400, "dark"), (390, "light")])
def test_it_can_be_read_with_a_run_selected(chromium, made, width, scheme):
    with whole(chromium, made, width=width, scheme=scheme) as shown:
        shown.page.click("#records button[data-run=trial-1]")
        shown.shoot(f"report_selected_{width}_{scheme}")
        shown.check()


@pytest.mark.parametrize("width", [1400, 390])
def test_a_point_that_is_clicked_is_selected_everywhere(chromium, made, width):
    found, path = made("twenty")
    record = found.winner
    with whole(chromium, made, width=width) as shown:
        page = shown.page
        page.evaluate("document.getElementById('front_flops_per_token').scrollIntoView({block: 'center'})")
        page.mouse.click(*page.evaluate(POINT, ["front_flops_per_token", record.run]))
        page.wait_for_selector("#selected", state="visible")
        said = page.inner_text("#selected")
        assert record.run in said
        assert str(record.placement) in said
        assert f"{record.loss_nats:.4f} nats" in said
        assert page.inner_text("#its-export code") == f"lpanas export '{path.parent}' --pick {record.run}"
        page.wait_for_function(SETTLED)
        held = page.evaluate(HOLDING, record.run)
        assert {"front_flops_per_token", "curves"} <= set(held)
        assert page.evaluate(MARKED) == held
        selected = page.eval_on_selector_all("tr.selected", "rows => rows.map(row => row.cells[0].textContent)")
        assert selected == [record.run]
        assert page.url.endswith(f"#{record.run}")


def test_a_run_is_selected_anew_when_its_address_is_opened(chromium, made):
    with whole(chromium, made) as shown:
        shown.page.click("#records button[data-run=trial-2]")
        shown.page.reload()
        shown.page.wait_for_function(READY)
        assert shown.page.inner_text("#its-run").startswith("trial-2")


def test_an_address_that_names_no_run_does_no_harm_and_one_that_is_typed_later_selects(chromium, made):
    with opened(chromium, made("twenty")[1]) as shown:
        page = shown.page
        for wrong in ("#100%", "#trial-999", "#%3Cb%3E"):
            page.goto(made("twenty")[1].as_uri() + wrong)
            page.reload()
            page.wait_for_function(READY)
            assert not page.is_visible("#selected")
        page.evaluate("location.hash = '#trial-3'")
        page.wait_for_selector("#selected", state="visible")
        assert page.inner_text("#its-run").startswith("trial-3")
        assert (shown.errors, shown.asked) == ([], [])


def test_what_is_asked_for_before_the_figures_are_drawn_is_done_in_all_of_them(chromium, made):
    early = """addEventListener('DOMContentLoaded', () => setTimeout(() => {
        window.early = document.documentElement.dataset.drawn === undefined;
        select('trial-3'); scaleTo('perplexity');
        document.getElementById('status').value = 'complete'; filter();
    }))"""
    with opened(chromium, made("three objectives")[1]) as shown:
        page = shown.page
        page.add_init_script(early)
        page.goto(made("three objectives")[1].as_uri() + "#trial-1")
        page.reload()
        page.wait_for_function(READY)
        page.wait_for_function(SETTLED)
        assert page.evaluate("window.early")
        assert page.evaluate(MARKED) == page.evaluate(HOLDING, "trial-3")
        titles = "[...document.querySelectorAll('[id^=front_] .ytitle')].map(text => text.textContent.includes('perplexity'))"
        assert page.evaluate(titles) == [True, True]
        assert page.evaluate("figures.filter(div => div.dimmed).length >= 2")
        assert (shown.errors, shown.asked) == ([], [])


def test_a_selected_run_is_seen_in_the_table_wherever_it_stands(chromium, tmp_path):
    page_file = write_report(study(130), tmp_path)
    with opened(chromium, page_file) as shown:
        page = shown.page
        page.wait_for_function(READY)
        assert len(page.evaluate(SHOWN)) == 100
        page.evaluate("select('trial-125')")
        assert page.is_visible("tr.selected")
        assert page.inner_text("tr.selected td button") == "trial-125"
        page.evaluate("select('trial-2')")
        assert len(page.evaluate(SHOWN)) == 100
        page.click("#all")
        assert len(page.evaluate(SHOWN)) == 133
        assert (shown.errors, shown.asked) == ([], [])


@pytest.mark.parametrize(
    ("words", "keep", "said"),
    [
        ("trial-1", lambda its: its.run == "trial-1", "1 of "),
        ("loss_nats < 3.1", lambda its: its.loss_nats is not None and its.loss_nats < 3.1, " of "),
        ("loss_nat<3.1", lambda its: True, "there is no column loss_nat, but loss_nats, perplexity"),
        ("seed>=1 seed<=2", lambda its: 1 <= its.seed <= 2, "2 of "),
        ("q,k=1/4", lambda its: "q,k=1/4" in its.placement, " of "),
        ("(.*[\\'\"<>", lambda its: False, "0 of "),
    ],
)
def test_a_filter_takes_blanks_runs_columns_and_anything_else(chromium, made, words, keep, said):
    found, _ = made("twenty")
    with whole(chromium, made) as shown:
        shown.page.fill("#filter", words)
        shown.page.evaluate("filter()")
        assert said in shown.page.inner_text("#shown")
        assert shown.page.evaluate(SHOWN) == [one.run for one in [*found.records, *found.seeds] if keep(one)]


def test_what_was_chosen_outlives_a_new_reading(chromium, made):
    with whole(chromium, made) as shown:
        page = shown.page
        page.click("#theme")
        page.click("[data-scale=perplexity]")
        page.fill("#filter", "seed=0")
        page.evaluate("filter()")
        page.click("#records th[data-column=loss_nats] button")
        before = page.evaluate(SHOWN)
        page.reload()
        page.wait_for_function(READY)
        assert page.evaluate(SHOWN) == before
        assert page.input_value("#filter") == "seed=0"
        assert page.get_attribute("[data-scale=perplexity]", "aria-pressed") == "true"
        assert page.get_attribute("#theme", "aria-pressed") == "true"
        assert page.evaluate("document.documentElement.classList.contains('dark')")


def test_in_print_the_table_has_its_heads_and_the_names_of_its_runs(chromium, made):
    with whole(chromium, made, scheme="dark") as shown:
        page = shown.page
        page.emulate_media(media="print")
        heads, first = page.inner_text("#records thead").split(), page.inner_text("#records tbody tr:not([hidden])").split()
        assert heads[:4] == ["run", "arm", "status", "loss_nats"]
        assert first[0] == "trial-0"
        assert not page.is_visible("#theme")
        assert page.evaluate("getComputedStyle(document.body).color") == "rgb(26, 26, 26)"


def test_the_run_below_and_above_and_none(chromium, made):
    ordered = sorted([*made("twenty")[0].complete, *made("twenty")[0].seeds], key=lambda one: one.loss_nats)
    with whole(chromium, made) as shown:
        page = shown.page
        page.click(f"#records button[data-run={ordered[3].run}]")
        page.click("#after")
        assert page.inner_text("#its-run").partition(",")[0] == ordered[4].run
        page.click("#before")
        page.click("#before")
        assert page.inner_text("#its-run").partition(",")[0] == ordered[2].run
        page.keyboard.press("Escape")
        page.wait_for_selector("#selected", state="hidden")
        page.wait_for_function(SETTLED)
        assert page.evaluate(MARKED) == []


def test_a_click_on_a_head_sorts_and_another_turns_it_round(chromium, made):
    found, _ = made("twenty")
    records = [*found.records, *found.seeds]
    known = [one.run for one in sorted((one for one in records if one.loss_nats is not None), key=lambda one: one.loss_nats)]
    unknown = [one.run for one in records if one.loss_nats is None]
    assert unknown
    with whole(chromium, made) as shown:
        head = shown.page.locator("#records th[data-column=loss_nats]")
        head.locator("button").click()
        assert (shown.page.evaluate(SHOWN), head.get_attribute("aria-sort")) == (known + unknown, "ascending")
        head.locator("button").click()
        assert (shown.page.evaluate(SHOWN), head.get_attribute("aria-sort")) == (known[::-1] + unknown, "descending")


def test_filters_leave_what_they_say_and_that_is_downloaded(chromium, made, tmp_path):
    found, _ = made("twenty")
    records = [*found.records, *found.seeds]
    middle = round(sorted(one.loss_nats for one in found.complete)[len(found.complete) // 2], 3)
    wanted = [one for one in records if one.loss_nats is not None and one.loss_nats < middle and "trial" in one.run]
    assert 0 < len(wanted) < len(found.complete)
    with whole(chromium, made) as shown:
        page = shown.page
        page.fill("#filter", f"TRIAL loss_nats<{middle}")
        page.wait_for_function(f"document.getElementById('shown').textContent === '{len(wanted)} of {len(records)} runs'")
        assert page.evaluate(SHOWN) == [one.run for one in wanted]
        with page.expect_download() as waited:
            page.click("#download")
        assert waited.value.suggested_filename == "records.csv"
        waited.value.save_as(tmp_path / "records.csv")
        rows = list(csv.DictReader((tmp_path / "records.csv").read_text().splitlines()))
        assert [row["run"] for row in rows] == [one.run for one in wanted]
        assert [float(row["loss_nats"]) for row in rows] == pytest.approx([one.loss_nats for one in wanted], rel=1e-8)
        page.fill("#filter", "")
        page.select_option("#status", "failed")
        page.wait_for_function(f"document.getElementById('shown').textContent !== '{len(wanted)} of {len(records)} runs'")
        assert page.evaluate(SHOWN) == [one.run for one in records if one.status == "failed"]


def test_the_loss_is_read_in_other_units(chromium, made):
    found, _ = made("twenty")
    losses = [one.loss_nats for one in found.complete]
    title = "document.querySelector('#front_flops_per_token .ytitle').textContent"
    ticks = "[...document.querySelectorAll('#front_flops_per_token .ytick text')].map(text => Number(text.textContent))"
    per_nat = found.complete[0].bits_per_byte / found.complete[0].loss_nats
    with whole(chromium, made) as shown:
        page = shown.page
        before = page.evaluate(title), page.evaluate(ticks)
        for unit, to in (("perplexity", lambda nats: 2.718281828**nats), ("bits_per_byte", lambda nats: nats * per_nat)):
            page.click(f"[data-scale={unit}]")
            page.wait_for_function(f"{title}.includes('({unit})')")
            assert page.get_attribute(f"[data-scale={unit}]", "aria-pressed") == "true"
            drawn = page.evaluate(ticks)
            assert len(drawn) > 2
            assert to(min(losses)) * 0.9 < drawn[0] < drawn[-1] < to(max(losses)) * 1.1
        page.click("[data-scale=loss_nats]")
        page.wait_for_function(f"{title}.includes('(loss_nats)')")
        page.wait_for_function(SETTLED)
        assert (page.evaluate(title), page.evaluate(ticks)) == before


def test_light_and_dark_are_the_systems_until_they_are_chosen(chromium, made):
    colour = "getComputedStyle(document.body).backgroundColor"
    light, dark = "rgb(255, 255, 255)", "rgb(26, 26, 26)"
    with whole(chromium, made, scheme="dark") as shown:
        page = shown.page
        assert page.evaluate(colour) == dark
        page.emulate_media(color_scheme="light")
        page.wait_for_function(f"{colour} === '{light}'")
        page.click("#theme")
        assert page.evaluate(colour) == dark
        shown.check_contrast()
        page.click("#theme")
        assert page.evaluate(colour) == light


def test_every_control_is_reached_by_the_tab_key_and_enter_works_it(chromium, made):
    controls = """[...document.querySelectorAll('button, input, select, a[href], summary, [tabindex="0"]')].filter(one =>
        !one.disabled && one.checkVisibility() && !one.closest('.modebar'))"""
    with whole(chromium, made) as shown:
        page = shown.page
        page.evaluate(f"{controls}.forEach((one, place) => {{ one.dataset.place = place; }})")
        wanted = set(page.evaluate(f"{controls}.map(one => one.dataset.place)"))
        reached = set()
        for _ in range(3 * len(wanted)):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.dataset.place"))
            if wanted <= reached:
                break
        assert wanted <= reached
        page.focus("#records button[data-run=trial-1]")
        page.keyboard.press("Enter")
        page.wait_for_selector("#selected", state="visible")
        page.focus("#close")
        page.keyboard.press("Enter")
        page.wait_for_selector("#selected", state="hidden")
        page.focus("#records th[data-column=run] button")
        page.keyboard.press("Enter")
        assert page.get_attribute("#records th[data-column=run]", "aria-sort") == "ascending"


def test_names_that_would_do_harm_do_none(chromium, made):
    found, _ = made("odd names")
    lost = next(one for one in found.records if one.reason.startswith("<script>"))
    with whole(chromium, made, "odd names") as shown:
        page = shown.page
        page.click(f"#records button[data-run={lost.run}]")
        assert lost.reason in page.inner_text("#its-words")
        for div in page.query_selector_all(".plotly-graph-div"):
            div.scroll_into_view_if_needed()
            div.hover()
        assert page.evaluate("window.harmed === undefined")


def test_a_page_without_any_run_has_no_table_to_sort_and_says_so(chromium, tmp_path):
    page = write_report(ODD["nothing has ended"](), tmp_path)
    with opened(chromium, page) as shown:
        shown.page.wait_for_function(READY)
        assert shown.page.inner_text("#shown") == "0 of 0 runs"
        shown.check()
