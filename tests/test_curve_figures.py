from lpanas.search import curve_figures
from lpanas.search.curve_figures import curves_figure
from lpanas.search.results import Results
from making import arm_records, ended, job, point, tiny_space

SPACE = tiny_space()
ARMS = arm_records(SPACE, 3.0, 3.1, 3.2, None)
BEST = ended(job(SPACE.candidate(point("1/4", "1/4")), "trial-5"), 2.9)
FOUND = Results(SPACE, [*ARMS, BEST], [ended(job(SPACE.arm("dense"), "noise-0", seed=1), 3.01)])


def test_the_learning_curves_are_those_of_the_records():
    drawn = [tuple(zip(trace.x, trace.y, strict=True)) for trace in curves_figure(FOUND).data]
    assert drawn == [its.curve for its in FOUND.records if its.curve]


def test_of_many_curves_the_arms_the_front_and_some_others_are_drawn_and_the_title_says_so(monkeypatch):
    monkeypatch.setattr(curve_figures, "CURVES", 3)
    others = [ended(job(SPACE.candidate(point("1/4", "1/4")), f"trial-{n}"), 5.0 + n) for n in range(6, 16)]
    figure = curves_figure(Results(SPACE, [*ARMS, BEST, *others], []))
    drawn = {trace.name for trace in figure.data}
    assert {"dense", "attention", "ffn", BEST.run} < drawn
    assert len(drawn) == len(figure.data) == 4 + 3
    assert figure.layout.title.text == "Learning curves: the arms, the front and 3 others of 14"
    assert curves_figure(FOUND).layout.title.text == "Learning curves"
