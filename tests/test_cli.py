import json
import re
from itertools import product
from pathlib import Path

import pytest
import torch
import yaml
from lpanas.lpa.cost import cost
from lpanas.lpa.data import DataConfig
from lpanas.search.folder import check_folder
from lpanas.search.presets import load_space
from lpanas.search.results import read_study
from making import TINY, Call, point


@pytest.fixture
def space(tmp_path: Path, pages: DataConfig) -> Path:
    """The tiny space as a file, on the pages' text."""
    path = tmp_path / "tiny.yaml"
    raw = yaml.safe_load(TINY.replace("1e-2", "0.01"))
    raw["proxy"]["data"] = pages.model_dump(mode="json")
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path


MISTAKES = {
    "proxy.tokns=5": r"proxy.tokns: unknown key, did you mean 'tokens'\?",
    "sed=5": r"sed: unknown key, did you mean 'seed'\?",
    "proxy.tokens=many": r"proxy.tokens: expected a whole number, found 'many' \(text\)",
    "proxy.optim.lr=fast": r"proxy.optim.lr: expected a number, found 'fast' \(text\)",
    "vary.bands=true": r"vary.bands: expected a whole number, found True \(true/false\)",
    "vary.ranks.attention=[dense, 5/4]": r"vary.ranks.attention.1: the rank 5/4 is not between 0 and full rank",
    "vary.ranks.attention=[dense, 1/2]": r"vary.ranks.attention: proxy: rank 8 \(1/2\) saves nothing in q .* below 8",
    "proxy.model.n_heads=3": r"proxy.model.n_heads: 3 heads do not divide d_model 16",
    "target.model.shape=llama-13m": r"target.model.shape: unknown shape 'llama-13m', did you mean 'llama-130m'\?",
    "vary.ranks={atention: [dense, 1/4]}": r"vary.ranks.atention: unknown projection 'atention', did you mean 'attention'\?",
    "limits.params=0.01 x dense": r"limits: no candidate of the space keeps to params: 0.01 x dense",
    "limits.params=little": r"limits.params: expected a positive number or '1.0 x dense', found 'little'",
    "limits.params=-1": r"limits.params: expected a positive number or '1.0 x dense', found '-1'",
    "limits.params=0": r"limits.params: expected a positive number or '1.0 x dense', found '0'",
    "limits.step_seconds=0.0 x dense": r"limits.step_seconds: expected a positive number or '1.0 x dense', found '0.0 x dense'",
    "limits.params=1e-9": r"limits: no candidate of the space keeps to params: 1e-09",
    "search.trials=3": r"search.trials: expected greater than or equal to 4, found 3",
    "proxy.data={source: text, text: [nowhere/*.txt]}": r"data.text: no file matches 'nowhere/\*.txt'",
    "proxy.data.text=[]": r"proxy.data.text: 'source: text' and a list of globs go together",
    "proxy.data.max_epochs=0.001": r"too little training text in .*: [\d,]+ tokens found, 640,001 needed",
    "proxy.model.vocab_size=100": r"model.vocab_size: 100 is less than the data's 257 different tokens",
    "seed=-1": r"seed: expected greater than or equal to 0, found -1",
    "proxy.optim.lr=.inf": r"proxy.optim.lr: expected a finite number, found inf",
    "proxy.device=cuda": r"device: cuda, but torch sees no GPU here; expected cpu or auto",
    "name=a/b": r"name: it names a folder, so without / and not beginning with a dot; found 'a/b'",
    "name=2020-13-45": r"the value is not YAML",
    "=3": r"--set =3: expected key=value",
}


@pytest.mark.parametrize("setting", MISTAKES)
def test_a_mistake_in_a_space_is_one_line_and_nothing_is_written(setting: str, call: Call, space: Path, tmp_path: Path) -> None:
    code, out, err = call("search", space, "--out", tmp_path / "out", "--set", setting)
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"lpanas: .*{MISTAKES[setting]}.*\n", err), err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="this one has a GPU")
def test_a_graph_without_a_gpu_is_the_same_line_from_every_command_before_anything_is_written(
    call: Call, space: Path, tmp_path: Path
) -> None:
    study = tmp_path / "study"
    assert call("search", space, "--out", study)[0] == 0
    config = study / "export" / "target" / "train.yaml"
    out = ("--out", tmp_path / "out")
    commands = (
        ("show", space, "--set", "proxy.cuda_graph=true"),
        ("search", space, *out, "--set", "proxy.cuda_graph=true"),
        ("confirm", study, *out, "--set", "proxy.cuda_graph=true"),
        ("show", config, "--set", "cuda_graph=true"),
        ("train", config, *out, "--set", "cuda_graph=true"),
    )
    for words in commands:
        assert call(*words) == (2, "", "lpanas: cuda_graph: only on one GPU alone, found 1 on cpu\n")
        assert not (tmp_path / "out").exists()


def test_a_search_that_limits_end_says_so_with_the_limited_costs_and_by_how_much_they_are_exceeded(
    call: Call, space: Path, tmp_path: Path
) -> None:
    out, limited = tmp_path / "out", ("--set", "limits.params=0.6 x dense", "--trials", 8)
    dense = cost(load_space(str(space)).target.model, 4).params
    code, screen, err = call("search", space, "--out", out, *limited)
    assert (code, err) == (0, "")
    found = read_study(out)
    points = product(("dense", "1/4"), ("dense", "1/2", "1/4"))
    within = [pair for pair in points if cost(found.space.candidate(point(*pair)).target, 4).params <= 0.6 * dense]
    assert len(found.records) == len(found.arms) + len(within) - sum(arm.feasible for arm in found.arms.values()) < 8
    reason = "no candidate is left that keeps to the limits (params at most 0.6 x dense) and was not trained"
    assert f"It ended at {len(found.records)} of 8 trials: {reason}." in " ".join(screen.split())
    shares = {arm: cost(found.space.arm(arm).target, 4).params / dense for arm in found.arms}
    above = [f"{found.arms[arm].run} (params {share / 0.6:.4g} x the limit)" for arm, share in shares.items() if share > 0.6]
    said = " ".join(screen.split()).partition("Above the space's limits, and so not on the front: ")[2]
    assert set(above) <= set(re.split(r"(?<=limit\)),? ", said))
    assert re.search(r"\n +flops_per_token +params *\n.* x dense +x dense +placement", screen)
    assert call("show", out)[1].startswith(screen[: screen.index("page: ")])

    shown = call("show", space, *limited[:2])[1]
    assert f"above the limits: dense (params {1 / 0.6:.4g} x the limit)" in shown
    code, screen, _ = call("search", space, "--out", tmp_path / "four", "--trials", 4)
    assert code == 0
    assert "It ended at" not in screen


TEXTS = {
    "a: &a [*a]": r"bad.yaml: a part of it refers to itself",
    "name: [a": r"bad.yaml:1:9: YAML: .*",
    "name: a\nname: b": r"bad.yaml:2:1: YAML: the key 'name' stands twice",
    "- a": r"bad.yaml: expected a mapping of keys, found \['a'\] \(a list\)",
    "": r"bad.yaml: expected a mapping of keys, found None \(nothing\)",
}


@pytest.mark.parametrize("text", TEXTS)
def test_a_file_that_is_no_space_is_one_line_with_its_place(text: str, call: Call, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    code, _, err = call("search", tmp_path / "bad.yaml", "--out", tmp_path / "out")
    assert code == 2
    assert re.fullmatch(rf"lpanas: \S*{TEXTS[text]}\n", err), err
    assert not (tmp_path / "out").exists()


def test_an_empty_source_is_said(call: Call, space: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    source = f"proxy.data={{source: text, text: ['{tmp_path}/empty.txt']}}"
    code, _, err = call("search", space, "--out", tmp_path / "out", "--set", source)
    assert code == 2
    assert err == f"lpanas: data: no text in {tmp_path}/empty.txt\n"


def test_an_option_of_show_that_would_do_nothing_is_refused(call: Call, space: Path, tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text("model: {}")
    cases = {
        (tmp_path, "--set", "seed=1"): f"--set: only a space has it, and {tmp_path} is none",
        (tmp_path, "--coordinates", "a.html"): "--coordinates: only a space has it",
        (tmp_path / "train.yaml", "--coordinates", "a.html"): "--coordinates: only a space has it",
        (space, "--coordinates", tmp_path): f"--coordinates {tmp_path}: is a folder; expected a file's name",
        (space, "--coordinates", tmp_path / "none" / "a.html"): f"none/a.html: {tmp_path}/none is no folder",
        (
            space,
            "--coordinates",
            tmp_path / "a.html",
            "--set",
            "proxy.model.vocab_size=200",
        ): "model.vocab_size: 200 is less than",
    }
    for words, line in cases.items():
        code, _, err = call("show", *words)
        assert code == 2
        assert line in err
        assert len(err.splitlines()) == 1


def test_without_a_command_there_is_help_and_no_mistake(call: Call) -> None:
    code, out, err = call()
    assert (code, err) == (2, "")
    assert "prepare" in out


def test_a_double_dot_in_out_makes_no_folder(tmp_path: Path) -> None:
    assert check_folder(tmp_path / "x" / ".." / "y") == tmp_path / "y"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("search", "quikstart"), "quikstart: no such preset, did you mean 'quickstart'? (a file ends in .yaml)"),
        (("search", "none.yaml"), "none.yaml: no such file"),
        (("serch", "quickstart"), "No such command 'serch'. Did you mean 'search'?"),
        (("search",), "Missing argument 'SPACE'."),
        (("report", "nowhere"), "nowhere: holds no study (there is no space.yaml in it)"),
        (("train", "none.yaml"), "none.yaml: no such file"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(words: tuple[str, ...], line: str, call: Call) -> None:
    assert call(*words) == (2, "", f"lpanas: {line}\n")


def test_an_out_that_is_not_a_studys_is_refused_and_left_alone(call: Call, space: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "space.yaml").write_text("precious")
    file = tmp_path / "mine" / "space.yaml"
    for out in (tmp_path / "mine", file, file / "below", "/proc/nothing"):
        code, _, err = call("search", space, "--out", out)
        assert code == 2
        assert len(err.splitlines()) == 1
    assert file.read_text() == "precious"
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["space.yaml"]


def test_a_storage_that_cannot_be_opened_leaves_nothing_behind(call: Call, space: Path, tmp_path: Path) -> None:
    code, _, err = call("search", space, "--out", tmp_path / "out", "--storage", f"sqlite:///{tmp_path}/none/study.db")
    assert code == 2
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def train_losses(metrics: Path) -> list[float]:
    return [json.loads(line)["train_loss_nats"] for line in metrics.read_text().splitlines()]


@pytest.mark.slow
def test_from_a_space_to_a_trained_model(call: Call, space: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, screen, err = call("search", space, "--out", out, "--workers", 2)
    assert (code, err) == (0, "")
    for text in (
        "flops_per_token x dense",
        "The reference arms and the front",
        "The winner",
        "The smallest difference",
        str(out / "report.html"),
    ):
        assert text in screen

    again = call("search", space, "--out", out)
    assert again == (0, screen, "")
    records = (out / "records.jsonl").read_bytes()
    out = out.rename(tmp_path / "moved")
    assert call("report", out)[0] == 0
    assert (out / "records.jsonl").read_bytes() == records
    assert call("report", out)[0] == 0
    assert call("show", out)[0] == 0
    assert "ranks of the proxy" in call("show", space)[1]

    config = out / "export" / "target" / "train.yaml"
    assert "training FLOPs" in call("show", config)[1]
    small = ("--set", "tokens=6400", "--set", "batch_size=4", "--set", "microbatch=4", "--set", "log_every=1")
    for folder, calls in ((tmp_path / "once", [()]), (tmp_path / "twice", [("--steps", "20"), ()])):
        codes = [call("train", config, *small, "--out", folder, *more)[0] for more in calls]
        assert set(codes) == {0}
    losses, resumed = (train_losses(tmp_path / name / "metrics.jsonl") for name in ("once", "twice"))
    assert losses == resumed
    assert len(losses) == 50
    assert sum(losses[-5:]) < sum(losses[:5])

    code, text, _ = call("export", out, "--pick", "0", "--target", "llama-9m", "--to", "axolotl,llamafactory,torchtitan")
    assert code == 0
    for name in ("train.yaml", "hf/config.json", "llamafactory.yaml", "dataset_info.json", "axolotl.yaml"):
        for folder in ("llama-9m", "llama-9m/dense"):  # compared, both start by the same rules
            assert (out / "export" / folder / name).exists()
    for place in (out / "export" / "llama-9m", out / "export" / "llama-9m" / "dense"):
        assert str(place / "torchtitan") in text.replace("\n", "")
        assert {path.name for path in (place / "torchtitan").iterdir()} == {"README.md", "lpanas_model"}
    assert "trial-0" in text
    assert call("export", out, "--pick", "77")[0] == 2

    assert "replaced" in call("export", out, "--pick", "0")[1]
    screen = "".join(call("search", space, "--out", out)[1].split())
    assert f"replaced{config},whichwas:Exportedbylpanasfromtrial-0ofthestudy" in screen
