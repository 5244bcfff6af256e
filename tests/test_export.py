import json
import math
import os
import shutil
import subprocess
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.distributed.run as torch_run
import typer.main
from lpanas.lpa.config import UserError, parse_yaml
from lpanas.lpa.model import Decoder
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.placement import PROJECTIONS, Placement
from lpanas.lpa.train_config import TrainConfig
from lpanas.search.budget import ARMS, Listed
from lpanas.search.carry import retarget
from lpanas.search.cli import app
from lpanas.search.export import export, picks, planned
from lpanas.search.presets import load_config, load_space, presets, shapes
from lpanas.search.results import Results
from making import BANDED, arm_records, ended, job, tiny_space

SPACE = tiny_space("vary.bands=2", "vary.rebalance=[none, params]", "vary.factor_activation=[none, silu]")
POINT = BANDED | {"factor_activation": "silu"}
RECORD = ended(job(SPACE.candidate(POINT), "trial-4"), 3.05)
FOUND = Results(SPACE, [*arm_records(SPACE, 3.0, 3.1, 3.2, 3.3), RECORD], [])


def exported(found, record, out, shape=None):
    path = export(found, record, out, shape).path
    assert path == out / "export" / (shape or "target") / "train.yaml"
    return TrainConfig.parse(parse_yaml(path.read_text(), "train.yaml"), "train.yaml")


@cache
def built_params(text):
    model = ModelConfig.parse_json(text, "model")
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in Decoder(model).parameters())


def params_of(model):
    return built_params(model.model_dump_json())


def by_hand(params):
    """The tiny target at a point of the space, from the words of the point alone: two bands of two layers each."""
    bands = []
    for band in range(2):
        ranks = {group: params[f"rank {group} band {band}"] for group in ("attention", "ffn")}
        words = " ".join(f"{group}={rank}" for group, rank in ranks.items() if rank != "dense")
        bands.append(f"{2 * band}-{2 * band + 1} {words or 'dense'}")
    shape = {"vocab_size": 264, "d_model": 64, "d_ff": 192, "n_heads": 2, "n_layers": 4, "context": 32}
    dense = ModelConfig.parse({**shape, "rank_multiple": 4, "ffn_multiple": 4}, "by hand")
    if all(band.endswith("dense") for band in bands):
        return dense
    model = dense.change(placement=Placement.parse("; ".join(bands), 4), factor_activation=params["factor_activation"])
    while params["rebalance"] == "params":
        wider = model.change(d_ff=model.d_ff + 4)
        if params_of(wider) > params_of(dense):
            break
        model = wider
    return model


def test_what_is_exported_is_the_target_that_the_points_words_say(tmp_path):
    for params in map(dict, product(*([(key, value) for value in values] for key, values in SPACE.choices.items()))):
        if params["rank ffn band 0"] == params["rank attention band 0"] == "dense":
            record = ended(job(SPACE.candidate(params), "trial-4"), 3.05)
            assert exported(FOUND, record, tmp_path).model == by_hand(params)


@pytest.mark.parametrize("number", range(len(ARMS)))
def test_an_arm_is_exported_whether_or_not_it_lies_in_the_space(tmp_path, number):
    record = FOUND.records[number]
    assert exported(FOUND, record, tmp_path).model == record.target
    outside = tiny_space("vary.ranks={both: [1/8, 1/4]}")
    records = arm_records(outside, 3.0, 3.1, 3.2, 3.3)
    assert not records[number].params
    assert exported(Results(outside, records, []), records[number], tmp_path).model == records[number].target


def test_fractions_and_bands_carry_over_to_another_named_shape(tmp_path):
    model = exported(FOUND, RECORD, tmp_path, "llama-60m").model
    assert (model.d_model, model.d_ff, model.n_layers, model.vocab_size) == (512, 1376, 8, 32000)
    assert model.placement == Placement.parse("0-3 attention=1/4; 4-7 ffn=1/2", 8)
    assert (model.context, model.rank_multiple, model.factor_activation) == (32, 4, "silu")
    assert (model.rank(0, "q"), model.rank(7, "up"), model.rank(7, "q")) == (128, 256, None)


def test_a_rebalance_is_done_again_at_another_shape(tmp_path):
    record = ended(job(SPACE.candidate({**POINT, "rebalance": "params"}), "trial-4"), 3.05)
    model = exported(FOUND, record, tmp_path, "llama-20m").model
    dense = params_of(model.dense().change(d_ff=688))
    assert model.d_ff > 688
    assert params_of(model) <= dense < params_of(model.change(d_ff=model.d_ff + model.ffn_multiple))


def test_the_learning_rate_and_the_width_it_was_chosen_at_are_the_proxys(tmp_path):
    optim = exported(FOUND, RECORD, tmp_path, "llama-60m").optim
    assert optim == SPACE.proxy.optim.change(lr_base_width=SPACE.proxy.model.d_model)


def test_a_base_width_that_the_space_names_is_kept(tmp_path):
    space = tiny_space("proxy.optim.lr_base_width=8")
    found = Results(space, arm_records(space, 3.0), [])
    assert exported(found, found.records[0], tmp_path).optim.lr_base_width == 8


@pytest.mark.parametrize("shape", [None, "llama-20m"])
def test_the_tokens_are_so_many_a_parameter_of_the_dense_target(tmp_path, shape):
    space = tiny_space("target.tokens_per_param=7")
    found = Results(space, arm_records(space, 3.0, 3.1), [])
    config = exported(found, found.records[1], tmp_path, shape)
    assert config.tokens == 7 * params_of(config.model.dense())


def test_batch_microbatch_seed_and_text_are_those_of_the_space(tmp_path):
    space = tiny_space("seed=5", "proxy.data={max_epochs: 0.5, valid_tokens: 128}")
    found = Results(space, arm_records(space, 3.0), [])
    config = exported(found, found.records[0], tmp_path)
    assert (config.batch_size, config.microbatch, config.seed) == (8, 4, 5)
    text = {"max_epochs": None, "valid_tokens": config.data.valid_tokens}
    assert config.data == space.proxy.data.change(**text)


@pytest.mark.parametrize(
    ("asked", "tokens_per_param", "expected"),
    [(128, 20, "a thousandth"), (2**16, 20, 2**16), (128, 1e5, 1_048_576), (2**22, 1e5, 2**22)],
)
def test_validation_grows_with_the_training_up_to_a_million_tokens(tmp_path, asked, tokens_per_param, expected):
    space = tiny_space(f"proxy.data={{valid_tokens: {asked}}}", f"target.tokens_per_param={tokens_per_param}")
    found = Results(space, arm_records(space, 3.0), [])
    config = exported(found, found.records[0], tmp_path)
    expected = config.tokens // 1000 if expected == "a thousandth" else expected
    assert config.data.valid_tokens == expected >= asked
    assert config.evals * expected <= config.tokens // 10 or expected == asked


def test_a_shape_where_the_records_rank_saves_nothing_is_refused(tmp_path):
    space = load_space("quickstart")
    found = Results(space, arm_records(space, 3.0, 3.1), [])
    assert exported(found, found.records[0], tmp_path, "llama-9m").model.n_layers == 4
    with pytest.raises(UserError, match=r"--target llama-9m: placement: rank 64 .*saves nothing"):
        export(found, found.records[1], tmp_path, "llama-9m")


def test_a_shape_with_fewer_layers_than_bands_is_refused(tmp_path):
    space = tiny_space("vary.bands=5", "proxy.model.n_layers=5", "target.model.n_layers=5")
    found = Results(space, arm_records(space, 3.0), [])
    with pytest.raises(UserError, match=r"--target llama-9m: 5 bands of depth in 4 layers"):
        export(found, found.records[0], tmp_path, "llama-9m")


def test_an_unknown_shape_is_refused_with_the_nearest_right_one():
    with pytest.raises(UserError, match=r"--target.*llama-13m.*did you mean 'llama-130m'"):
        retarget(SPACE, "llama-13m")


def test_the_files_head_says_where_it_comes_from_and_what_it_rests_on(tmp_path):
    text = export(FOUND, RECORD, tmp_path).path.read_text()
    assert "trial-4" in text
    assert "3.0500 nats, +0.050 against the dense arm" in text


PROSE = Path(__file__).parents[1] / "runs" / "reference" / "2026-11-25_prose"


def at_the_ends(space):
    """Records of the arm with the most low rank, and of the lowest ranks with the last rebalance."""
    *_, lowest, _ = (one for one in space.corners() if one["rebalance"] == space.vary.rebalance[-1])
    both, low = space.arm("both"), space.candidate(lowest)
    return [ended(job(both, "trial-0", "both"), 3.0), ended(job(low, "trial-1"), 3.0)]


def fits(record, space, shape):
    """Whether every rank of a record at a shape is smaller than what it replaces, counted here."""
    model, multiple = shapes()[shape], space.target.model.rank_multiple
    d, ff = model["d_model"], model["d_ff"]
    sizes = {"q": (d, d), "k": (d, d), "v": (d, d), "o": (d, d), "up": (d, ff), "down": (ff, d)}
    sizes |= {} if model.get("ffn") == "relu" else {"gate": (d, ff)}
    for row in record.target.placement.layers:
        for name, fraction in zip(PROJECTIONS, row, strict=True):
            if fraction is not None and name in sizes:
                rank = max(1, round(fraction * min(sizes[name]) / multiple)) * multiple
                if min(rank, *sizes[name]) * sum(sizes[name]) >= math.prod(sizes[name]):
                    return False
    return True


@pytest.mark.parametrize("preset", presets())
def test_what_a_preset_exports_at_any_shape_is_built_as_it_was_priced(tmp_path, monkeypatch, preset):
    for module in (torch.nn.Linear, torch.nn.Embedding):  # on meta nothing is drawn, and half of the time goes there
        monkeypatch.setattr(module, "reset_parameters", lambda its: None)
    space = load_space(preset)
    records = at_the_ends(space)
    found, built, refused = Results(space, records, []), set(), 0
    for shape, record in product(shapes(), records):
        if not fits(record, space, shape):
            with pytest.raises(UserError, match=rf"^--target {shape}: placement: rank \d+ [^\n]* saves nothing [^\n]*$"):
                planned(found, record, shape)
            refused += 1
            continue
        done = export(found, record, tmp_path / record.run, shape)
        config, twin = load_config(done.path), load_config(done.dense)
        its = json.loads((done.path.parent / "prediction.json").read_text())
        assert its["predicted"]["params"] == params_of(config.model)
        assert its["dense"]["params"] == params_of(twin.model)
        width = {name: getattr(twin.model, name) for name in ("d_model", "n_layers", "d_ff")}
        assert width == {name: shapes()[shape][name] for name in width}
        built.add(shape)
    assert {"llama-60m", "llama-250m", "llama-350m", "llama-1b", "llama-3b", "llama-7b"} <= built
    assert refused < 2 * len(shapes()) - len(built)


def test_the_dense_twin_differs_in_the_model_alone(tmp_path):
    record = ended(job(SPACE.candidate({**POINT, "rebalance": "params"}), "trial-4"), 3.05)
    done = export(FOUND, record, tmp_path)
    config, twin = load_config(done.path), load_config(done.dense)
    assert done.dense == tmp_path / "export" / "target" / "dense" / "train.yaml"
    assert twin.model == SPACE.target.model
    assert config.model.d_ff > twin.model.d_ff
    assert twin.change(model=config.model) == config


def test_several_picks_lie_in_a_folder_each_beside_one_dense_twin(tmp_path, call):
    shutil.copytree(PROSE, tmp_path / "prose")
    code, said, _ = call("export", tmp_path / "prose", "--pick", "knee,loss", "--pick", "2")
    place, found = tmp_path / "prose" / "export" / "target", {}
    assert code == 0
    assert sorted(path.name for path in place.iterdir()) == ["README.md", "dense", "slurm.sh", "trial-2", "trial-4", "trial-6"]
    for run, word in (("trial-4", "knee"), ("trial-6", "loss"), ("trial-2", "2")):
        assert f"{run}{'' if word == '2' else f', {word}'} (" in said
        found[run] = json.loads((place / run / "prediction.json").read_text())
        assert found[run]["evidence"]["run"] == run
        assert f"from {run} of" in (place / run / "train.yaml").read_text().splitlines()[0]
    assert found["trial-4"]["dense"] == found["trial-2"]["dense"]
    assert "replaced" not in said
    assert said.count("dense twin:") == 1


def test_two_words_for_one_run_are_one_folder(tmp_path):
    assert {words: record.run for words, record in picks(FOUND, ["0,trial-0"]).items()} == {"0, trial-0": "trial-0"}


def test_a_listed_placement_is_carried_with_the_bands_that_it_was_listed_in(tmp_path):
    listed = Listed.parse({"ranks": {"attention": ["dense", "1/4", "3/8"]}, "rebalance": "params"}, "listed")
    space = tiny_space("proxy.model.n_layers=3", "target.model.n_layers=6")
    record = ended(job(space.listed(listed), "trial-4").change(listed=listed), 3.05)
    done = export(Results(space, [*arm_records(space, 3.0), record], []), record, tmp_path, "llama-35m")
    model = load_config(done.path).model
    assert model.placement == Placement.parse("0-1 dense; 2-3 attention=1/4; 4-5 attention=3/8", 6)
    assert model.d_ff > load_config(done.dense).model.d_ff
    assert "layer l of 6 is in band floor(3 l / 6) of 3" in done.path.read_text()


def test_of_many_kinds_of_matrices_the_first_are_named_and_the_rest_counted(tmp_path):
    ranks = [f"{n}/16" for n in range(1, 7)]
    listed = Listed.parse({"ranks": {"attention": ranks}}, "listed")
    space = tiny_space("proxy.model.n_layers=6", "target.model.n_layers=6")
    record = ended(job(space.listed(listed), "trial-4").change(listed=listed), 3.05)
    text = export(Results(space, [record], []), record, tmp_path).path.read_text()
    # the head, and of six ranks an A and a B each, and two sizes of the dense FFN: 15, of which 12 are named
    assert "and 3 more kinds of matrices" in text
    assert text.count("layer 0: q,k,v,o 1/16") == 1
    assert load_config(tmp_path / "export" / "target" / "train.yaml").model == record.target


def test_the_defaults_of_the_command_line_are_those_of_the_prediction(tmp_path, call):
    shutil.copytree(PROSE, tmp_path / "prose")
    assert call("export", tmp_path / "prose")[0] == 0
    its = json.loads((tmp_path / "prose" / "export" / "target" / "prediction.json").read_text())
    assert its["assumed"] == {"mfu": 0.4, "peak_tflops": 989.0}
    said = " ".join(call("export", "--help")[1].replace("│", " ").split())
    assert "0.4 is assumed" in said
    assert "989 is assumed" in said


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--pick", "knee,77"), "--pick 77: no such run"),
        (("--pick", "knee,"), "--pick: expected knee, loss, cost or a run, found nothing beside a comma"),
        (("--mfu", "0"), "--mfu: expected a share of the peak from 0.001 to 1, found 0"),
        (("--mfu", "40"), "--mfu: expected a share of the peak from 0.001 to 1, found 40"),
        (("--target", "lpa-370m", "--to", "hf"), "hf: model.ffn: relu is not in Hugging Face's Llama"),
        (("--pick", "knee,loss", "--to", "torchtitan", "--target", "lpa-370m"), "torchtitan: model.ffn: relu is not in"),
        (("--peak-tflops", "nan"), "--peak-tflops: expected TFLOP/s above 0"),
        (("--target", "llama-9b"), "--target: unknown shape 'llama-9b'"),
        (("--pick", "0,1", "--target", "cpu-64"), "--target cpu-64: placement: rank 64"),
    ],
)
def test_a_mistake_is_a_line_and_nothing_is_written(tmp_path, call, words, line):
    shutil.copytree(PROSE, tmp_path / "prose")
    code, out, error = call("export", tmp_path / "prose", *words)
    assert (code, out, error.count("\n")) == (2, "", 1)
    assert line in error
    assert not (tmp_path / "prose" / "export").exists()


def test_the_readme_starts_every_file_and_the_slurm_script_is_bash(tmp_path, call):
    export(FOUND, FOUND.records[1], tmp_path)
    place = export(FOUND, RECORD, tmp_path, apart=True).path.parents[1]
    said = (place / "README.md").read_text()
    for name in ("train.yaml", "trial-4/train.yaml", "dense/train.yaml"):
        assert f"    lpanas train {name}\n" in said
        assert load_config(place / name)
        assert call("show", place / name)[0] == 0
    assert "    torchrun --nproc-per-node N --no-python lpanas train train.yaml\n" in said
    assert "    sbatch --nodes 2 slurm.sh train.yaml\n" in said
    for folder in (place, place / "trial-4"):
        its = json.loads((folder / "prediction.json").read_text())["predicted"]
        assert f"| {its['params']:,} | {its['flops_per_token']:,} | {its['flops']:.4g} |" in said
    subprocess.run([shutil.which("bash"), "-n", str(place / "slurm.sh")], check=True)
    sourced = [line for line in (place / "slurm.sh").read_text().splitlines() if line.lstrip().startswith(("source ", ". "))]
    assert not sourced


def test_torchrun_reads_the_words_that_the_slurm_script_starts_it_with(tmp_path):
    script = export(FOUND, RECORD, tmp_path).path.parent / "slurm.sh"
    for name, text in (("scontrol", "seq -f node%.0f 7 100000"), ("srun", 'printf "%s\\0" "$@"')):  # more than a pipe holds
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_ID": "77",
        "SLURM_GPUS_ON_NODE": "8",
    }
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", **slurm}

    def run(*words):
        return subprocess.run([shutil.which("bash"), str(script), *words], env=environment, capture_output=True, text=True)

    done = run("a folder/train.yaml", "--out", "here")
    assert (done.returncode, done.stderr) == (0, "")
    kill, torchrun, *words = done.stdout.rstrip("\0").split("\0")
    read = torch_run.parse_args(words)
    assert (kill, torchrun, read.max_restarts) == ("--kill-on-bad-exit=1", "torchrun", 3)
    assert (read.nnodes, read.nproc_per_node, read.rdzv_endpoint, read.rdzv_id) == ("2", "8", "node7:29400", "77")
    assert (read.no_python, read.training_script) == (True, "lpanas")
    assert read.training_script_args == ["train", "a folder/train.yaml", "--out", "here"]
    assert typer.main.get_command(app).commands["train"].make_context("train", read.training_script_args[1:])
    assert "expected a train.yaml" in run().stderr


def test_every_one_of_several_picks_and_the_dense_twin_get_their_hugging_face_folders_where_asked_for(tmp_path, call):
    shutil.copytree(PROSE, tmp_path / "prose")
    code, said, _ = call("export", tmp_path / "prose", "--pick", "knee,loss", "--to", "native,hf")
    place = tmp_path / "prose" / "export" / "target"
    assert code == 0
    for run in ("trial-4", "trial-6", "dense"):
        config = json.loads((place / run / "hf" / "config.json").read_text())
        assert config["hidden_size"] == load_config(place / run / "train.yaml").model.d_model
        assert any(config["ranks"]) is (run != "dense")
        assert str(place / run / "hf") in "".join(said.split())
    code, _, error = call("export", "--checkpoint", tmp_path, "--to", "hf", "--pick", "loss")
    assert (code, error) == (2, "lpanas: --pick: does not go with --checkpoint\n")
