import gzip
import subprocess
import sys
from pathlib import Path
from struct import unpack
from xml.etree import ElementTree

import browser
import pandas as pd
import plotly.graph_objects as go
import pytest
from lpanas.lpa.config import UserError
from lpanas.search import figure_files
from lpanas.search.conclude import conclude
from lpanas.search.figure import Figure
from lpanas.search.figure_files import read_formats, write_files
from lpanas.search.page import LAYOUT
from lpanas.search.report import figures as search_figures
from lpanas.search.results import read_study
from lpanas.search.variants import variants
from lpanas.search.verdict_page import figures
from made_up import Losses, play, protocol_space

SVG = "{http://www.w3.org/2000/svg}"


def figure(name, height=None, **drawn):
    rows = pd.DataFrame({"share": [0.5, 1.0, 0.1 + 0.2], "loss_nats": [2.5, 2.0, float("nan")], "run": ["a,b", '"c"', "d"]})
    drawing = go.Figure(go.Scatter(x=[0.5, 1], y=[2.5, 2], name="a < b & c") if drawn.get("drawn", True) else None)
    drawing.update_layout(**LAYOUT, height=height, xaxis_title="cost of the target", showlegend=True)
    return Figure(name, "A title", "Words.", rows, drawing)


@pytest.fixture(scope="module")
def drawn():
    """Skips where nothing can draw."""
    pytest.importorskip("kaleido", reason="kaleido is not installed: pip install 'lpanas[figures]'")
    if browser.program() is None:
        pytest.skip("there is no Chromium or Chrome here: apt-get install chromium, or BROWSER_PATH")


@pytest.fixture(scope="module")
def folder(drawn, tmp_path_factory):
    """Two figures and an empty one in every format, and how many browsers were started for them."""
    place = tmp_path_factory.mktemp("study") / "figures"
    its = [figure("front"), figure("tall", height=700), figure("empty", drawn=False)]
    started = []
    popen = subprocess.Popen

    class Counted(popen):
        def __init__(self, *words, **options):
            started.append(words)
            super().__init__(*words, **options)

    subprocess.Popen = Counted
    try:
        paths = write_files(its, place, ["svg", "png", "pdf"])
    finally:
        subprocess.Popen = popen
    assert len(started) == 1
    return place, paths


def test_every_figure_has_its_rows_and_what_is_drawn_its_pictures(folder):
    place, paths = folder
    names = {f"{name}.{end}" for name in ("front", "tall") for end in ("csv", "svg", "png", "pdf")} | {"empty.csv"}
    assert {path.name for path in paths} == {path.name for path in place.iterdir()} == names
    assert list(place.parent.iterdir()) == [place]


def test_an_svg_is_xml_with_the_texts_as_text(folder):
    root = ElementTree.parse(folder[0] / "front.svg").getroot()
    assert (root.tag, root.get("width"), root.get("height")) == (f"{SVG}svg", "900", "560")
    texts = {"".join(text.itertext()) for text in root.iter(f"{SVG}text")}
    assert {"cost of the target", "a < b & c", "0.5", "1"} <= texts
    fonts = {text.get("style").partition("font-family: ")[2].partition(",")[0] for text in root.iter(f"{SVG}text")}
    assert fonts == {"Arial"}
    assert ElementTree.parse(folder[0] / "tall.svg").getroot().get("height") == "700"


def test_a_png_has_two_pixels_a_pixel(folder):
    for name, size in (("front", (1800, 1120)), ("tall", (1800, 1400))):
        content = (folder[0] / f"{name}.png").read_bytes()
        assert content[:8] == b"\x89PNG\r\n\x1a\n"
        assert unpack(">II", content[16:24]) == size


def test_a_pdf_is_one_page_of_that_size_with_its_fonts(folder):
    content = (folder[0] / "front.pdf").read_bytes()
    assert content.startswith(b"%PDF-")
    assert content.rstrip().endswith(b"%%EOF")
    _, box = content.split(b"/MediaBox")
    width, height = (float(number) for number in box.partition(b"[")[2].partition(b"]")[0].split()[2:])
    assert (width, height) == pytest.approx((900 * 0.75, 560 * 0.75), abs=1)  # 72 points an inch, 96 pixels
    assert b"/FontName" in content


def test_a_csv_holds_the_rows_to_the_last_digit(folder):
    pd.testing.assert_frame_equal(pd.read_csv(folder[0] / "front.csv"), figure("front").rows, check_exact=True)


def test_rows_need_neither_kaleido_nor_a_browser(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaleido", None)
    monkeypatch.setenv("BROWSER_PATH", "/nowhere")
    assert read_formats("csv") == ("csv",)
    assert write_files([figure("front")], tmp_path / "figures", ["csv"]) == [tmp_path / "figures" / "front.csv"]


def test_formats_are_named_once_with_commas_between(drawn):
    assert read_formats("svg, PNG,svg") == ("svg", "png")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("svgg", "--figures svgg: unknown format 'svgg', did you mean 'svg'?"),
        ("svg,pfd", "--figures svg,pfd: unknown format 'pfd', did you mean 'pdf'?"),
        ("gif", "--figures gif: unknown format 'gif', known: svg, png, pdf, csv"),
        ("", "--figures : unknown format '', known: svg, png, pdf, csv"),
    ],
)
def test_an_unknown_format_is_one_line_before_anything_is_read(call, tmp_path, words, line):
    assert call("report", tmp_path / "none", "--figures", words) == (2, "", f"lpanas: {line}\n")


def test_without_kaleido_it_is_said_how_it_is_installed(call, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kaleido", None)
    line = "lpanas: --figures: kaleido is not installed: pip install 'lpanas[figures]'\n"
    assert call("report", tmp_path, "--figures", "svg") == (2, "", line)
    with pytest.raises(UserError, match="kaleido is not installed"):
        write_files([figure("front")], tmp_path / "figures", ["svg"])
    assert list(tmp_path.iterdir()) == []


def test_without_a_browser_it_is_said_what_to_install(call, tmp_path, monkeypatch):
    pytest.importorskip("kaleido", reason="kaleido is not installed: pip install 'lpanas[figures]'")
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(figure_files, "BROWSERS", [name for name in figure_files.BROWSERS if "/" not in name])
    code, out, err = call("report", tmp_path, "--figures", "svg")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "apt-get install chromium" in err
    assert "BROWSER_PATH" in err


def test_a_browser_that_is_named_but_not_there_is_said(drawn, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", "/nowhere/chromium")
    with pytest.raises(UserError, match=r"^--figures: BROWSER_PATH=/nowhere/chromium: no such program$"):
        read_formats("svg")


def test_a_browser_that_is_none_leaves_nothing_behind(drawn, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("BROWSER_PATH", "/bin/false")
    with pytest.raises(UserError, match=r"^--figures: /bin/false does not draw: .*$"):
        write_files([figure("front")], tmp_path / "figures", ["svg"])
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_what_the_browser_says_is_not_shown(drawn, tmp_path, monkeypatch, capfd):
    loud = tmp_path / "loud"
    loud.write_text(f'#!/bin/sh\necho "ERROR: loud" >&2\nexec {browser.program()} "$@"\n')
    loud.chmod(0o755)
    monkeypatch.setenv("BROWSER_PATH", str(loud))
    write_files([figure("front")], tmp_path / "figures", ["svg"])
    assert capfd.readouterr() == ("", "")


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "figures").touch()
    with pytest.raises(UserError, match="figures: "):
        write_files([figure("front")], tmp_path / "figures", ["csv"])


def test_a_confirmations_figures_have_names_for_files_and_their_rows():
    space = protocol_space(
        "confirm.sizes=[{name: small, tokens: 128}, {name: <b>a/b}]", "confirm.matches=[width, params, flops]"
    )
    its = figures(conclude(space, variants(space, {}), play(space, Losses())))
    names = [one.name for one in its]
    assert len(set(names)) == len(names)
    assert all(name.replace("_", "").isalnum() for name in names)
    assert {name.partition("_")[0] for name in names} == {"comparisons", "controls", "rates", "costs", "effects", "ranks"}
    for one in its:
        assert len(one.rows)
        assert one.drawing.data
        if one.name.startswith("costs"):
            drawn = [(x, y) for trace in one.drawing.data for x, y in zip(trace.x, trace.y, strict=True)]
            assert sorted(drawn) == sorted(zip(one.rows["share"], one.rows["mean"], strict=True))
        if one.name.startswith("ranks"):
            assert sorted(y for trace in one.drawing.data for y in trace.y) == sorted(one.rows["rank"])


def test_a_confirmation_in_which_nothing_has_ended_has_no_figures():
    space = protocol_space()
    assert [one.name for one in figures(conclude(space, variants(space, {}), [])) if not one.name.startswith("co")] == []


def test_report_writes_the_rows_of_every_figure_of_a_study(call, tmp_path):
    kept = Path(__file__).parents[1] / "runs" / "reference" / "2026-11-25_prose"
    (tmp_path / "space.yaml").write_bytes((kept / "space.yaml").read_bytes())
    (tmp_path / "records.jsonl").write_bytes(gzip.decompress((kept / "records.jsonl.gz").read_bytes()))
    code, out, err = call("report", tmp_path, "--figures", "csv")
    assert (code, err) == (0, "")
    assert f"figures: {tmp_path / 'figures'}" in out.replace("\n", "")
    its = search_figures(read_study(tmp_path))
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {f"{one.name}.csv" for one in its}
    for one in its:
        assert len((tmp_path / "figures" / f"{one.name}.csv").read_text().splitlines()) >= len(one.rows)
