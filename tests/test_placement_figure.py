import pytest
from lpanas.lpa.cost import cost
from lpanas.lpa.model import build
from lpanas.search.placement_figure import placement_figure, placement_rows, saved_words
from lpanas.search.results import Results
from making import arm_records, ended, job, point, tiny_space
from torch import device

SPACE = tiny_space()
BEST = ended(job(SPACE.candidate(point("1/4", "1/2")), "trial-4"), 2.0)
FOUND = Results(SPACE, [*arm_records(SPACE, 3.0), BEST], [])


def test_a_cell_is_a_projection_of_a_layer_with_the_params_of_the_built_model():
    rows = placement_rows(BEST.target)
    assert len(rows) == 4 * 7
    model = build(BEST.target, device("cpu"), seed=0)
    for row in rows.to_dict("records"):
        its = [p for name, p in model.named_parameters() if f".{row['layer']}." in name and f".{row['projection']}." in name]
        assert its, row
        assert sum(p.numel() for p in its) == row["params"]
    saved = cost(BEST.target.dense(), 1).params - cost(BEST.target, 1).params
    assert rows["params_saved"].sum() == saved


def test_ranks_are_shaded_by_their_share_of_full_rank_and_dense_is_white():
    (cells,) = placement_figure(FOUND).drawing.data
    assert [list(row) for row in cells.z] == [[0.25] * 4 + [0.5] * 3] * 4
    assert [list(row) for row in cells.text] == [[16] * 4 + [32] * 3] * 4
    (dense,) = placement_figure(Results(SPACE, arm_records(SPACE, 3.0), [])).drawing.data
    assert {value for row in dense.z for value in row} == {1.0}
    assert {value for row in dense.text for value in row} == {"dense"}


def test_what_is_saved_is_said_in_full():
    less = SPACE.dense_costs["params"] - BEST.costs["params"]
    assert f"{less:,} parameters ({less / SPACE.dense_costs['params']:.1%}) saved" in saved_words(FOUND, BEST)
    wide = ended(job(SPACE.candidate(point("1/4", "dense", "params"))), 2.0)
    wider = wide.target.d_ff - SPACE.target.model.d_ff
    assert f"after an FFN wider by {wider:,} (d_ff {wide.target.d_ff:,})" in saved_words(FOUND, wide)
    assert wider > 0


def test_a_dense_winner_is_said_to_be_that():
    dense = Results(SPACE, arm_records(SPACE, 3.0), [])
    assert placement_figure(dense).words == "trial-0 at the target. It is the dense target."


@pytest.mark.parametrize("records", [[], arm_records(SPACE, None)])
def test_without_a_winner_there_is_no_picture(records):
    figure = placement_figure(Results(SPACE, records, []))
    assert not figure.drawing.data
    assert figure.words == "There is no winner."
