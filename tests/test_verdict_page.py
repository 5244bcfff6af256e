"""The page of a confirmation says what its records say: each of its numbers is computed anew from them."""

import gzip
import json
import re
from dataclasses import asdict
from html import unescape
from pathlib import Path

import pytest
from lpanas.lpa.config import dump_yaml
from lpanas.search.conclude import conclude
from lpanas.search.presets import load_space
from lpanas.search.variants import variants
from lpanas.search.verdict_page import write_page
from lpanas.search.wording import headline, sections
from made_up import Losses, ask, play, protocol_space
from page_tables import right, tables, value
from plotly.offline import get_plotlyjs
from recomputed import Recomputed, check, read

REFERENCE = sorted(path.parent for path in (Path(__file__).parents[1] / "runs" / "reference").glob("**/verdict.json"))
"""Confirmations whose records are kept."""

SCRIPT = "<script>alert(\"x\",'y')<"
ARM, SIZE = "<img\"'&%{x}>", "<b>&amp; \"big\" 'size'</b>"
LADDER = "confirm.sizes=[{name: small, tokens: 128}, {name: large}]"
MATCHES = "confirm.matches=[width, params, flops]"
CLOSE = Losses(
    arms={"dense": 2.0, "attention": 1.985, "ffn": 2.05, "both": 2.1, ARM: 1.99},
    sizes={SIZE: {"dense": 2.0, "attention": 2.05, "ffn": 2.05, "both": 2.0, ARM: 1.99}},
    noise=0.008,
)
TOLD_APART = Losses(arms={"dense": 2.0, "attention": 1.8, "ffn": 2.3, "both": 2.6}, noise=1e-3)
LOST = Losses(
    noise=0.01,
    diverges=lambda arm, factor, seed: arm == "both" and (factor > 1.5 or seed in (1003, 1004)),
    fails=lambda arm, factor, seed: arm == "attention" and seed in (1002, 1004),
)
NEVER = Losses(diverges=lambda arm, factor, seed: arm == "ffn")


def odd_names():
    """Names that are HTML and more, as far as a space takes them, and every kind of comparison."""
    return protocol_space(
        f"name={json.dumps(SCRIPT)}",
        f"confirm.sizes=[{{name: small, tokens: 128}}, {{name: {json.dumps(SIZE)}}}]",
        "confirm.matches=[width, flops]",
        f"confirm.placements={{{json.dumps(ARM)}: {{ranks: {{attention: 1/8}}}}}}",
        f"confirm.arms=[dense, attention, ffn, both, {json.dumps(ARM)}]",
        f"confirm.claim=[attention better than dense, {json.dumps(ARM + ' no worse than dense')}]",
        f"confirm.beside=[{json.dumps('ffn equivalent to ' + ARM)}]",
        "confirm.controls=[init]",
    )


def only_sweeps(space):
    return [one for one in play(space, CLOSE) if one.seed < space.seed + 1000 + space.confirm.seeds.sweep]


CASES = {
    "nothing has ended": (protocol_space(LADDER, MATCHES), lambda space: []),
    "only sweeps": (protocol_space(), only_sweeps),
    "one size": (protocol_space("confirm.controls=[]"), lambda space: play(space, CLOSE)),
    "two sizes": (protocol_space(LADDER, MATCHES), lambda space: play(space, TOLD_APART)),
    "under way": (protocol_space(LADDER), lambda space: play(space, TOLD_APART)[:-31]),
    "diverged and failed": (protocol_space(MATCHES), lambda space: play(space, LOST)),
    "never trains": (protocol_space(), lambda space: play(space, NEVER)),
    "without dense": (
        protocol_space("confirm.arms=[ffn, both]", "confirm.claim=[ffn better than both]", "confirm.controls=[]", LADDER),
        lambda space: play(space, CLOSE),
    ),
    "odd names": (odd_names(), lambda space: play(space, CLOSE)),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The space, the records, what they say and the page of a case; each is made once."""
    known = {}

    def make(case):
        if case not in known:
            space, run = CASES[case]
            records = run(space)
            found = conclude(space, variants(space, {}), records)
            page = write_page(found, space, tmp_path_factory.mktemp("confirm"))
            assert page.name == "verdict.html"
            known[case] = space, records, found, page.read_text(encoding="utf-8")
        return known[case]

    return make


def body(page):
    return page.replace(get_plotlyjs(), "")


@pytest.mark.parametrize("case", CASES)
def test_every_number_of_the_page_is_what_its_records_say(made, case):
    space, records, _, page = made(case)
    check(page, space, records)


@pytest.mark.parametrize("folder", REFERENCE, ids=lambda folder: folder.name)
def test_every_number_is_what_the_records_that_are_kept_say(tmp_path, folder):
    space, records = read(folder)
    found = conclude(space, variants(space, {}), records)
    assert json.loads(json.dumps(asdict(found))) == json.loads((folder / "verdict.json").read_text(encoding="utf-8"))
    check(write_page(found, space, tmp_path).read_text(encoding="utf-8"), space, records)


def test_records_that_are_kept_are_read_as_they_were_packed_or_not(made, tmp_path):
    space, records, *_ = made("one size")
    (tmp_path / "space.yaml").write_text(dump_yaml(space), encoding="utf-8")
    lines = "".join(one.model_dump_json() + "\n" for one in records).encode()
    (tmp_path / "records.jsonl").write_bytes(lines)
    assert read(tmp_path) == (space, records)
    (tmp_path / "records.jsonl").unlink()
    (tmp_path / "records.jsonl.gz").write_bytes(gzip.compress(lines))
    assert read(tmp_path) == (space, records)


def test_a_number_that_is_off_is_noticed(made):
    space, records, _, page = made("two sizes")
    shown = tables(page)
    wanted, tried = Recomputed(space, records, {}).tables(shown), 0
    for name, rows in wanted.items():
        for got, row in zip(shown[name], rows, strict=True):
            for column, cell in row.items():
                digits = [at for at in re.finditer(r"[1-9]", got[column]) if name != "controls" or column not in "AB"]
                if not digits or isinstance(cell, str):
                    continue
                place = digits[0].start()
                off = got[column][:place] + str(int(got[column][place]) % 9 + 1) + got[column][place + 1 :]
                assert not right(column, off, cell), (name, column, got[column], off)
                tried += 1
    assert tried > 500


def test_the_cases_hold_every_verdict_what_was_lost_and_a_rate_at_the_edge(made):
    verdicts = {one.verdict for case in CASES for one in made(case)[2].comparisons}
    assert verdicts == {"confirmed", "refuted", "inconclusive"}
    arms = made("diverged and failed")[2].arms
    assert any(one.diverged for one in arms)
    assert any(one.failed for one in arms)


def test_a_rate_at_the_edge_is_flagged(tmp_path):
    space = protocol_space("confirm.lr_extend=0")
    found = conclude(space, variants(space, {}), play(space, Losses(best_factor=8.0)))
    rows = tables(write_page(found, space, tmp_path).read_text(encoding="utf-8"))["arms"]
    assert {row["lr"] for row in rows} == {"0.02 at the edge"}


def test_the_page_begins_with_the_verdict_and_what_it_rests_on(made):
    for case in CASES:
        _, _, found, page = made(case)
        text = " ".join(unescape(re.sub(r"<[^>]*>", " ", body(page).partition("<h2>The comparisons")[0])).split())
        at = 0
        for one in (headline(found), *said(found)):
            at = text.index(" ".join(one.split()), at) + 1


def said(found):
    return [text for title, texts in sections(found) for text in (title, *texts)]


def test_a_page_has_the_figures_that_it_has_something_for(made):
    def figures(case):
        return body(made(case)[3]).count("Plotly.newPlot")

    assert figures("nothing has ended") == 2  # comparisons and controls, named without marks
    assert figures("one size") == 1 + 1 + 2  # comparisons, rates, two costs
    assert figures("two sizes") == 2 + 2 * 3 + 2 * 2 + 2 * 2  # two forests; rates, costs, ladder


def test_the_page_carries_plotly_js_once_and_loads_nothing(made):
    page = made("two sizes")[3]
    assert page.count(get_plotlyjs()) == 1
    assert not re.search(r"<(?:script|link|img|iframe)[^>]*(?:src|href)=|@import|url\(", body(page))
    assert len(body(page)) < 600_000


def test_names_are_text_wherever_they_stand(made):
    *_, page = made("odd names")
    for name in (SCRIPT, ARM, SIZE):
        assert name not in body(page)
    assert not re.search(r"<(?:img|b>&)", body(page))
    assert {row["comparison"] for row in tables(page)["comparisons"]} >= {f"{ARM} no worse than dense"}
    assert {row["size"] for row in tables(page)["arms"]} == {"small", SIZE}


def test_names_are_text_in_figures(made):
    """What plotly.js is handed, with the escapes of JSON undone, holds no tag but our own."""
    *_, page = made("odd names")
    calls = re.findall(r"Plotly\.newPlot\((.*?)\)\s*(?:\.then|}|;)", body(page), re.DOTALL)
    assert calls
    for call in calls:
        handed = call.replace("\\u003c", "<").replace("\\u003e", ">").replace("\\u002f", "/")
        tags = set(re.findall(r"<\w+|</\w+", handed))
        assert tags <= {"<b", "</b", "<br", "<extra", "</extra", "<span", "</span"}
        assert not [one for one in re.findall(r'"hovertemplate":"(.*?)"', handed) if "img" in one]


def test_the_page_can_be_made_again_from_the_same_records(made, tmp_path):
    space, _, found, page = made("two sizes")
    without_ids = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")
    again = write_page(found, space, tmp_path).read_text(encoding="utf-8")
    assert without_ids.sub("", body(again)) == without_ids.sub("", body(page))
    assert [path.name for path in tmp_path.iterdir()] == ["verdict.html"]


def test_the_space_on_the_page_can_be_read_again(made, tmp_path):
    space, *_, page = made("odd names")
    text = unescape(re.search(r"<pre[^>]*>(.*)</pre>", body(page), re.DOTALL)[1])
    (tmp_path / "space.yaml").write_text(text, encoding="utf-8")
    assert load_space(str(tmp_path / "space.yaml"), []) == space


def test_it_says_how_many_runs_and_whether_more_are_asked_for(made):
    for case in CASES:
        space, records, _, page = made(case)
        (told,) = re.findall(r"<li>([\d,]+) runs, ([\d,]+) training tokens; (.*)\.</li>", body(page))
        assert (value(told[0]), value(told[1])) == (len(records), sum(one.tokens for one in records))
        assert (told[2] == "nothing more is asked for") == (ask(space, records) == [])
