"""What a step takes, by the times of its pieces: the sum, what is kept on disk, and what is timed."""

import json
from collections import Counter
from itertools import islice

import pytest
import torch
from lpanas.lpa.between import line
from lpanas.lpa.config import UserError
from lpanas.lpa.model import build
from lpanas.lpa.optim import OptimConfig
from lpanas.lpa.piece_time import PieceTime, parts, piece_time
from lpanas.lpa.pieces import Layer, Project, Stream, Update, Widen, pieces
from lpanas.lpa.step_table import StepTable, driver_version, read_table, step_table, under
from lpanas.lpa.train import accumulate, fresh
from lpanas.lpa.train_config import TrainConfig
from test_pieces import SHAPES, shaped
from torch.utils.flop_counter import FlopCounterMode

CPU = torch.device("cpu")


def training(model, **more):
    rule = {"lr_rule": "uniform"} if model.tie_embeddings else {}
    fields = {"optim": OptimConfig(lr=1e-3, **rule), "tokens": 1000, "batch_size": 2, "device": "cpu"}
    return TrainConfig(model=model, **fields | more)


def silent(line):
    pass


def nothing_measured(piece, config):
    raise AssertionError(f"{piece.key} was measured")


class MadeUp:
    """Times of pieces by what they are, on a machine that may be slow, and how often each was asked for."""

    def __init__(self, slow=1.0):
        self.slow, self.asked = slow, []

    def __call__(self, piece, config):
        self.asked.append(piece.key)
        return PieceTime(first=self.slow * (1.0 + len(piece.key)), more=0.5 * self.slow, n=8, spread=0.01)


@pytest.fixture
def folder(tmp_path):
    """Of the cache's tables."""
    return tmp_path / "cache"


# the sum


def table_of(times):
    config = training(shaped())
    seconds = {key: PieceTime(first=first, more=more, n=8, spread=0.0) for key, (first, more) in times.items()}
    return StepTable(under=under(config), pieces=seconds)


def test_a_step_is_the_sum_of_its_pieces_by_hand():
    model = shaped(n_layers=2, placement="0 o=1/4; 1 dense", vocab_size=256)
    table = table_of(
        {
            "ends 256>64>256 rms_before rotary": (1e0, 2e0),
            "stream 64 rms_before": (1e1, 2e1),
            "attend 4/4 heads of 16 rotary joined": (1e2, 2e2),
            "project 64>64 64>64 64>64": (1e3, 2e3),
            "project 64>64 rank 16": (1e4, 2e4),
            "project 64>64": (1e5, 2e5),
            "widen 64>192 64>192": (1e6, 2e6),
            "project 192>64": (1e7, 2e7),
            "update 64": (0.0, 0.0),
            "update 1024": (1e8, 0.0),
            "update 4096": (2e9, 0.0),
            "update 16384": (8e9, 0.0),
        }
    )
    microbatch = 2 * 1e7 + 2 * 1e6 + 1e5 + 1e4 + 2 * 1e3 + 2 * 1e2 + 2 * 1e1 + 1
    # norms of 64; A and B of 1,024; q, k, v twice and o once of 4,096; two ends of 16,384;
    # six of the FFN of 12,288, two thirds of the way from 4,096 to 16,384
    updates = 2 * 1e8 + 7 * 2e9 + 2 * 8e9 + 6 * (2e9 / 3 + 8e9 * 2 / 3)
    for batch_size in (2, 4, 16):
        further = batch_size // 2 - 1
        expected = microbatch * (1 + 2 * further) + updates
        assert table.step_seconds(model, 192, batch_size) == pytest.approx(expected, rel=1e-12)


DEVICE, HOST = (1.0, 10.0), (3.0, 7.0)
"""Of each piece, the first microbatch and a further one."""


def of_host(pieces, **more):
    (first, further), (host_first, host_further) = DEVICE, HOST
    times = {
        piece.key: PieceTime(first=first, more=further, host_first=host_first, host_more=host_further, n=8, spread=0.0)
        if not isinstance(piece, Update)
        else PieceTime(first=first, more=0.0, host_first=host_first, n=8, spread=0.0)
        for piece in pieces
    }
    return StepTable(under=under(training(shaped())).change(**more), pieces=times)


def test_a_step_is_the_devices_or_the_hosts_whichever_is_longer():
    model = shaped()
    found = pieces(model, 192)
    table = of_host(found)
    computed = sum(count for piece, count in found.items() if not isinstance(piece, Update))
    updated = sum(found.values()) - computed
    for microbatches in (1, 2, 5):
        device = computed * (1.0 + 10.0 * (microbatches - 1)) + updated
        host = computed * (3.0 + 7.0 * (microbatches - 1)) + 3.0 * updated
        assert table.sums(model, 192, 2 * microbatches) == pytest.approx((device, host))
        assert table.step_seconds(model, 192, 2 * microbatches) == pytest.approx(max(device, host))


def test_at_a_measured_width_the_time_is_its_own_and_between_two_on_their_line():
    dense = 192
    low, high = list(islice(line(dense, 8), 3))[1:]
    models = [shaped(d_ff=d_ff) for d_ff in (low, high, (low + high) // 2)]
    asked = {piece for model in models for piece in pieces(model, dense)}
    times = {piece.key: PieceTime(first=0.0, more=0.0, n=8, spread=0.0) for piece in asked}
    for width, seconds in ((low, 5.0), (high, 9.0)):
        times[Widen((Layer(64, width), Layer(64, width))).key] = PieceTime(first=seconds, more=0.0, n=8, spread=0.0)
    table = StepTable(under=under(training(shaped())), pieces=times)
    found = [table.step_seconds(model, dense, 2) for model in models]
    assert found == pytest.approx([3 * 5.0, 3 * 9.0, 3 * 7.0])


# on disk


def asked_by(*placements):
    return list({piece: None for text in placements for piece in pieces(shaped(placement=text), 192)})


def test_what_was_measured_once_is_not_measured_again_and_only_what_is_missing_is(folder):
    config, first = training(shaped()), MadeUp()
    asked = asked_by("dense")
    made = step_table(config, asked, silent, folder, first)
    assert sorted(first.asked) == sorted(piece.key for piece in asked)
    assert step_table(config, asked, silent, folder, nothing_measured) == made
    more, second = asked_by("dense", "0-2 q,k=1/4"), MadeUp()
    found = step_table(config, more, silent, folder, second)
    lacking = {piece.key for piece in more} - {piece.key for piece in asked}
    assert second.asked[0] == "project 64>64"  # again, to see whether the machine is as it was
    assert sorted(second.asked[1:]) == sorted(lacking)
    assert made.pieces.items() <= found.pieces.items()
    assert step_table(config, asked, silent, folder, nothing_measured) == made
    assert len(list(folder.iterdir())) == 1


def test_it_is_said_how_many_pieces_there_are_and_how_long_is_left(folder):
    said = list[str]()
    asked = asked_by("dense")
    step_table(training(shaped()), asked, said.append, folder, MadeUp())
    assert said[0] == f"1 of {len(asked)} pieces of a step"
    assert [line.partition(" of ")[0] for line in said] == [str(number + 1) for number in range(len(asked))]
    assert all("min to go" in line for line in said[1:])


OTHERS = [
    {"microbatch": 1},
    {"precision": "bfloat16"},
    {"kernels": "regions"},
    {"activation_checkpointing": True},
    {"optim": OptimConfig(lr=1e-3, clip=None)},
]


@pytest.mark.parametrize("change", OTHERS)
def test_another_microbatch_precision_kernels_checkpointing_or_no_clipping_are_measured_apart(change, folder):
    asked = asked_by("dense")
    step_table(training(shaped()), asked, silent, folder, MadeUp())
    other = MadeUp()
    step_table(training(shaped(), **change), asked, silent, folder, other)
    assert len(other.asked) == len(asked)
    assert len(list(folder.iterdir())) == 2


def test_what_is_measured_in_another_way_from_now_on_or_with_another_driver_is_measured_apart(folder):
    its = under(training(shaped()))
    files = {its.change(**{key: value}).file for key, value in {"version": its.version + 1, "driver": "9", "cuda": "9"}.items()}
    assert len({its.file, *files}) == 4


@pytest.mark.parametrize("slow", [1.04, 0.96])
def test_a_machine_that_is_almost_as_it_was_adds_to_its_table(slow, folder):
    config, said = training(shaped()), list[str]()
    made = step_table(config, asked_by("dense"), silent, folder, MadeUp())
    for number in (4, 8, 16):  # however often: it is held against the table's first time
        found = step_table(config, asked_by("dense", f"0-2 q=1/{number}"), said.append, folder, MadeUp(slow))
        assert made.pieces.items() <= found.pieces.items()
    assert not any("anew" in line for line in said)


@pytest.mark.parametrize("slow", [1.06, 0.94, 2.0])
def test_pieces_of_a_slower_or_faster_machine_do_not_mix_all_are_measured_anew(slow, folder):
    config, said, other = training(shaped()), list[str](), MadeUp(slow)
    step_table(config, asked_by("dense", "0-2 o=1/4"), silent, folder, MadeUp())
    found = step_table(config, more := asked_by("dense", "0-2 q=1/4"), said.append, folder, other)
    assert other.asked[:2] == ["project 64>64"] * 2  # twice: one disturbed time would not cost the table
    assert sorted(other.asked[2:]) == sorted(piece.key for piece in more)
    assert "the machine is faster or slower than it was: all pieces are measured anew" in said
    assert found == step_table(config, more, silent, folder, nothing_measured)
    assert found.pieces == {piece.key: MadeUp(slow)(piece, config) for piece in more}
    step_table(config, asked_by("0-2 o=1/4"), silent, folder, again := MadeUp(slow))
    assert "project 64>64 rank 16" in again.asked  # of the machine as it was before


def test_a_table_is_filled_by_one_of_a_machine_in_the_same_state_alone(folder):
    config, probe = training(shaped()), Project((Layer(64, 64),))
    own = step_table(config, asked_by("dense"), silent, folder, MadeUp())
    near, far = (
        step_table(config, [probe, *asked_by("0-2 q=1/4")], silent, folder / str(slow), MadeUp(slow)) for slow in (1.04, 1.06)
    )
    assert own.filled(near).pieces == near.pieces | own.pieces
    with pytest.raises(UserError, match=r"^the machine is faster or slower than when the study's pieces were measured$"):
        own.filled(far)


def test_what_is_cut_to_a_models_pieces_keeps_the_one_that_is_timed_again(folder):
    config = training(shaped(bias=True))
    asked = list(pieces(config.model, 192))
    found = step_table(config, asked, silent, folder, MadeUp())
    assert found.probe not in asked
    assert set(found.pieces) == {piece.key for piece in [*asked, found.probe]}
    assert found.only(asked[:1]).pieces.keys() == {asked[0].key, found.probe.key}


def test_one_disturbed_time_does_not_cost_the_table(folder):
    config, times = training(shaped()), [1.3, 1.0]
    step_table(config, asked_by("dense"), silent, folder, MadeUp())

    def disturbed(piece, config):
        return MadeUp(times.pop(0) if times else 1.0)(piece, config)

    said = list[str]()
    step_table(config, asked_by("dense", "0-2 q=1/4"), said.append, folder, disturbed)
    assert not any("anew" in line for line in said)
    assert not times


def test_targets_of_two_widths_have_one_table_and_one_piece_that_is_timed_again(folder):
    one, other = (training(shaped(d_model=width)) for width in (64, 128))
    step_table(one, pieces(one.model, 192), silent, folder, MadeUp())
    step_table(other, pieces(other.model, 192), silent, folder, second := MadeUp())
    assert second.asked[0] == "project 64>64"
    for config in (one, other):
        step_table(config, pieces(config.model, 192), silent, folder, nothing_measured)
    assert len(list(folder.iterdir())) == 1


@pytest.mark.parametrize(
    "text",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version: 12.2.0\n",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (dvs)  Tue Mar  5\n",
    ],
)
def test_the_drivers_version_is_what_the_kernel_says(text):
    assert driver_version(text) == "550.54.15"
    assert driver_version("something else 1.2") is None


@pytest.mark.parametrize(
    "spoil", [lambda text: text[: len(text) // 2], lambda text: "", lambda text: text.replace("plain", "x")]
)
def test_a_file_that_is_torn_or_another_ones_is_measured_anew_and_mended(spoil, folder):
    config, asked = training(shaped()), asked_by("dense")
    made = step_table(config, asked, silent, folder, MadeUp())
    (path,) = folder.iterdir()
    path.write_text(spoil(path.read_text()))
    again = MadeUp()
    assert step_table(config, asked, silent, folder, again) == made
    assert len(again.asked) == len(asked)
    assert read_table(path) == made


def test_bytes_that_are_no_text_are_measured_anew(folder):
    config, asked = training(shaped()), asked_by("dense")
    step_table(config, asked, silent, folder, MadeUp())
    (path,) = folder.iterdir()
    path.write_bytes(b"\xff\x00" * 100)
    step_table(config, asked, silent, folder, again := MadeUp())
    assert len(again.asked) == len(asked)


def test_what_another_process_has_put_there_meanwhile_stays(folder):
    config = training(shaped())
    ours, theirs = asked_by("dense"), asked_by("0-2 down=1/4")
    made_up = MadeUp()

    def slow(piece, config):
        if piece == ours[-1]:
            step_table(config, theirs, silent, folder, MadeUp())
        return made_up(piece, config)

    step_table(config, ours, silent, folder, slow)
    step_table(config, [*ours, *theirs], silent, folder, nothing_measured)


def test_a_cache_that_cannot_be_written_costs_only_the_next_measurement(tmp_path):
    folder = tmp_path / "file"
    folder.touch()
    asked = asked_by("dense")
    assert set(step_table(training(shaped()), asked, silent, folder, MadeUp()).pieces) == {piece.key for piece in asked}


@pytest.mark.parametrize(
    ("text", "why"),
    [("{\n", r"is no whole JSON text \(line 2\)$"), ('{"pieces": {}}', "under: missing"), (None, "cannot be read")],
)
def test_a_named_file_that_is_no_table_is_a_mistake_in_a_line(text, why, tmp_path):
    path = tmp_path / "times.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=why) as raised:
        read_table(path)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("kernels", ["blocks", "model"])
def test_what_is_compiled_as_more_than_a_piece_is_no_sum_of_pieces(kernels, folder):
    words = f"kernels: a step compiled by {kernels} is no sum of pieces, expected plain, regions or auto"
    with pytest.raises(UserError, match=f"^{words}$"):
        step_table(training(shaped(), kernels=kernels), asked_by("dense"), silent, folder, nothing_measured)


def test_the_file_names_what_its_times_hold_for_and_reads_as_json(folder):
    config, asked = training(shaped()), asked_by("dense")
    step_table(config, asked, silent, folder, MadeUp())
    (path,) = folder.iterdir()
    assert torch.__version__ in path.name
    its = json.loads(path.read_text())
    assert its["under"]["threads"] == torch.get_num_threads()
    assert set(its["pieces"]) == {piece.key for piece in asked}


# what is timed


def kinds(shape):
    """A dense and a thin model's pieces, one of each kind and rank."""
    models = [shaped(shape), shaped(shape, "0-2 q,o=1/4 up,down=1/4", factor_activation="silu")]
    return list({piece: None for model in models for piece in pieces(model, 192) if not isinstance(piece, Update)})


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_kind_of_piece_makes_a_gradient_and_a_further_microbatch_adds_to_it(shape, again):
    config = training(shaped(shape, dropout=0.0), activation_checkpointing=again)
    for piece in kinds(shape):
        its = parts(piece, config, CPU)
        for _ in range(2):  # from the second round on as from the first
            its.before()
            assert all(weight.grad is None for weight in its.weights)
            its.first()
            one = [weight.grad.clone() for weight in its.weights]
            its.more()
            for first, weight in zip(one, its.weights, strict=True):
                torch.testing.assert_close(weight.grad, 2 * first)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("placement", ["dense", "0-2 q,o=1/4 up,down=1/4"])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_pieces_multiply_as_much_as_the_model_does(shape, placement, again):
    """By torch's own counter of FLOPs; those of attention left out, which are of one kernel here and of another there."""
    config = training(shaped(shape, placement, dropout=0.0), activation_checkpointing=again)
    model = fresh(config, CPU)
    tokens = torch.zeros(config.batch_size, config.model.context, dtype=torch.int64)
    whole = multiplied(lambda: accumulate(model, tokens, tokens, config))
    found = 0.0
    for piece, count in pieces(config.model, 192).items():
        if not isinstance(piece, Update):
            its = parts(piece, config, CPU)
            found += count * multiplied(its.first) / its.copies
    assert found == whole


def multiplied(do):
    with FlopCounterMode(display=False) as counter:
        do()
    its = counter.get_flop_counts().get("Global", {})
    return sum(flops for operation, flops in its.items() if operation in (torch.ops.aten.mm, torch.ops.aten.addmm))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_pieces_weights_are_the_models(shape):
    """Sizes of all tensors, each as often as the model has it."""
    model = shaped(shape, "0-2 q,o=1/4 up,down=1/4")
    built, config = Counter(weight.numel() for weight in build(model, CPU, 0).parameters()), training(shaped(shape))
    found = Counter[int]()
    for piece, count in pieces(model, 192).items():
        if not isinstance(piece, Update):
            its = parts(piece, config, CPU)
            sizes = Counter(weight.numel() for weight in its.weights)
            found.update({size: round(count) * of // its.copies for size, of in sizes.items()})
    assert found == built


def test_an_update_leaves_no_gradient_and_is_of_as_many_tensors_as_it_says():
    its = parts(Update(1024), training(shaped()), CPU)
    assert [weight.numel() for weight in its.weights] == [1024] * its.copies
    before = [weight.detach().clone() for weight in its.weights]
    its.before()
    assert all(weight.grad is not None for weight in its.weights)
    its.first()
    assert all(weight.grad is None for weight in its.weights)
    assert all(torch.equal(*pair) for pair in zip(before, its.weights, strict=True))  # at a rate of 0


def test_times_are_positive_and_as_many_as_they_say():
    config = training(shaped())
    for piece in (Project((Layer(64, 64, 16),)), Stream(64, "rms_before", 0.0), Update(1024)):
        found = piece_time(piece, config)
        assert found.first > 0
        assert (found.more == 0) == isinstance(piece, Update)
        assert found.n >= 8
        assert found.spread >= 0
