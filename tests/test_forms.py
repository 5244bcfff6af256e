"""The forms that other programs read, beside train.yaml: whose they are, and what becomes of another config's."""

import json
import re
import resource
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hf_folders import trained_in
from lpanas.lpa.config import UserError
from lpanas.lpa.data import DataConfig
from lpanas.search.export import export
from lpanas.search.forms import retire
from lpanas.search.hf_export import export_forms
from lpanas.search.outcomes import outcomes
from lpanas.search.presets import load_config
from lpanas.search.results import Results
from making import Call, arm_records, tiny_space

PROSE = Path(__file__).parents[1] / "runs" / "reference" / "2026-11-25_prose"
ALL = "hf,llamafactory,axolotl,torchtitan"
NAMES = ("hf", "llamafactory.yaml", "dataset_info.json", "axolotl.yaml", "torchtitan")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    return Path(shutil.copytree(PROSE, tmp_path / "prose"))


def held(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def full_disk(most: int) -> Iterator[None]:
    """No file grows beyond so many bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_forms_of_another_pick_are_gone_and_the_line_brings_them_back(study: Path, call: Call) -> None:
    place = study / "export" / "target"
    assert call("export", study, "--to", ALL)[0] == 0
    first = held(place)
    assert {*NAMES} <= {*first}
    assert call("export", study, "--to", "native")[0] == 0
    assert held(place) == first, "the same config's forms stay"
    said = " ".join(call("export", study, "--pick", "6")[1].split())
    assert held(place) == ["README.md", "dense", "prediction.json", "slurm.sh", "train.yaml"]
    assert {*NAMES} <= {*held(place / "dense")}, "the twin is the same"
    (again,) = re.findall(r"--to (\S+) writes them anew", said)
    code, said, _ = call("export", study, "--pick", "6", "--to", again)
    assert (code, held(place)) == (0, first)
    assert "removed" not in said
    ranks = json.loads((place / "hf" / "config.json").read_text())["placement"]
    assert ranks == load_config(place / "train.yaml").model.placement.text


def test_what_was_edited_or_trained_in_is_renamed_and_never_lost(study: Path, call: Call) -> None:
    place = study / "export" / "target"
    call("export", study, "--to", ALL)
    (place / "hf" / "model.safetensors").write_bytes(b"my weights")
    (place / "torchtitan" / "outputs").mkdir()
    (place / "torchtitan" / "outputs" / "mine").write_text("trained")
    (place / "axolotl.yaml").write_text("mine\n")
    (place / "trained").mkdir()
    call("export", study, "--to", "torchtitan")  # the same config: its results do not become ours
    said = "".join(call("export", study, "--pick", "6", "--to", "native,hf")[1].split())
    assert (place / "hf.old" / "model.safetensors").read_bytes() == b"my weights"
    assert (place / "torchtitan.old" / "outputs" / "mine").read_text() == "trained"
    assert (place / "axolotl.yaml.old").read_text() == "mine\n"
    assert not (place / "llamafactory.yaml").exists()
    assert (place / "hf" / "config.json").exists()
    assert not (place / "hf" / "model.safetensors").exists()
    for name in ("hf", "torchtitan", "axolotl.yaml"):
        assert f"keptas{place / name}.old" in said
    assert "trainedholdstrainingsofthat" in said
    assert "--tollamafactorywritesthemanew" in said


def test_what_was_edited_is_kept_when_the_same_is_exported_anew(study: Path, call: Call) -> None:
    place = study / "export" / "target"
    assert call("export", study, "--to", ALL)[0] == 0
    registry = next(place.glob("torchtitan/*/config_registry.py"))
    edited = [place / "axolotl.yaml", place / "hf" / "config.json", registry]
    for path in edited:
        path.write_text(path.read_text() + "\n# mine\n")
    (place / "torchtitan" / "outputs").mkdir()
    (place / "hf" / "tokenizer.json").write_text("{}")
    said = " ".join(call("export", study, "--to", ALL)[1].split())
    assert said.count("was not as exported: kept as") == 3
    for path in (place / "axolotl.yaml.old", place / "hf.old" / "config.json", registry.with_name("config_registry.py.old")):
        assert path.read_text().endswith("# mine\n")
    assert (place / "hf.old" / "tokenizer.json").exists()
    assert (place / "torchtitan" / "outputs").exists()
    assert not any(path.read_text().endswith("# mine\n") for path in edited)
    assert "kept as" not in call("export", study, "--to", ALL)[1]


def test_forms_that_nobody_noted_are_kept_and_a_link_is_not_followed(study: Path, call: Call, tmp_path: Path) -> None:
    place = study / "export" / "target"
    call("export", study, "--to", "hf,axolotl")
    (place / ".forms.json").write_text("{")
    shutil.move(place / "hf", tmp_path / "elsewhere")
    (place / "hf").symlink_to(tmp_path / "elsewhere")
    config = load_config(place / "train.yaml")
    assert retire(place, config) == []
    assert len(retire(place, config.change(seed=9))) == 2
    assert (place / "axolotl.yaml.old").exists()
    assert (tmp_path / "elsewhere" / "config.json").exists()


def test_the_readme_lists_each_form_with_what_starts_it(study: Path, call: Call) -> None:
    place = study / "export" / "target"
    call("export", study)
    assert "other programs" not in (place / "README.md").read_text()
    code, _, error = call("export", study, "--to", ALL)
    said = (place / "README.md").read_text()
    for line in (
        "- `hf`: see `hf/README.md`",
        "- `llamafactory.yaml`: `llamafactory-cli train llamafactory.yaml`",
        "- `dense/axolotl.yaml`: `cd dense && axolotl train axolotl.yaml`",
        "- `dense/torchtitan`: see `dense/torchtitan/README.md`",
    ):
        assert line in said.splitlines()
    assert all((place / name).is_file() for name in re.findall(r"see `(.+)`", said))
    assert code == 0
    for name in ("llamafactory.yaml", "axolotl.yaml", "dense/axolotl.yaml"):  # the text of that study is not here
        assert f"{place / name}: The text (prose-0.jsonl) is not here" in error
        assert "Nothing is evaluated" in (place / name).read_text()


def test_a_config_that_lies_there_twice_is_started_once(study: Path, call: Call) -> None:
    place = study / "export" / "target"
    call("export", study)
    said = "".join(call("export", study, "--pick", "knee,trial-4,0")[1].split())
    readme = (place / "README.md").read_text()
    started = re.findall(r"^    lpanas train (\S+)$", readme, re.MULTILINE)
    assert started == ["train.yaml", "dense/train.yaml"]
    assert "trial-0/train.yamlisthedensemodelitself:dense/train.yamlaloneneedbetrained" in said
    assert "trial-4/train.yamlisthesametrainingastrain.yaml:oneofthemisenough" in said
    assert "trial-4, knee (" in call("export", study, "--pick", "knee,trial-4,0")[1]
    assert len(re.findall(r"^- `trial-\d/train.yaml`: .*; it is the ", readme, re.MULTILINE)) == 2


def test_an_export_of_the_dense_arm_alone_trains_one_model(study: Path, call: Call) -> None:
    call("export", study, "--pick", "0")
    readme = (study / "export" / "target" / "README.md").read_text()
    assert re.findall(r"^    lpanas train (\S+)", readme, re.MULTILINE) == ["dense/train.yaml"] * 2


def test_paths_are_whole_so_that_a_training_starts_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    (tmp_path / "my text").mkdir()
    for number in range(60):
        (tmp_path / "my text" / f"{number}.txt").write_text(f"page {number}: " + "the cat sat on the mat. " * 9)
    space = tiny_space("proxy.data={source: text, text: ['my text/*.txt', gone/*.txt], max_epochs: null, valid_tokens: 64}")
    found = Results(space, arm_records(space, 3.0, 3.1), [])
    monkeypatch.chdir(tmp_path)
    done = export(found, found.records[1], tmp_path)
    config = load_config(done.path)
    assert config.data.text == (f"{tmp_path}/my text/*.txt", "gone/*.txt")
    assert load_config(done.dense).data == config.data
    assert "Some of its paths are relative" in (done.path.parent / "README.md").read_text()
    assert any("'gone/*.txt' stays relative to where the training is started" in line for line in done.caveats)

    space = tiny_space("proxy.data={source: text, text: ['my text/*.txt'], max_epochs: null, valid_tokens: 64}")
    found = Results(space, arm_records(space, 3.0, 3.1), [])
    place = export(found, found.records[1], tmp_path).path.parent
    assert "Its paths are whole" in (place / "README.md").read_text()
    export_forms(place / "train.yaml", ("torchtitan",), print)
    monkeypatch.chdir(place)
    small = ["--set", "tokens=1024", "--set", "evals=1", "--set", "device=cpu"]
    for name in ("train.yaml", "dense/train.yaml"):
        assert call("train", name, *small)[0] == 0
    (its, _) = outcomes(place)
    (training,) = its.trainings
    assert its.compared is not None, "the two read the same text"
    assert its.proxy is not None
    assert its.proxy.has_tokens_of(training)

    monkeypatch.chdir(place / "torchtitan")
    (command,) = re.findall(r"^    (lpanas prepare .*)$", Path("README.md").read_text(), re.MULTILINE)
    assert call(*shlex.split(command, comments=True)[1:])[0] == 0
    assert (place / "torchtitan" / "shards" / "train.bin").exists()
    assert 'dataset_path="shards"' in Path("lpanas_model/config_registry.py").read_text()


def test_a_folder_whose_name_is_a_glob_keeps_relative_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = tmp_path / "a[b]"
    odd.mkdir()
    (odd / "one.txt").write_text("text")
    monkeypatch.chdir(odd)
    for word, kept in (("one.txt", f"{odd}/one.txt"), ("*.txt", "*.txt")):
        space = tiny_space(f"proxy.data={{source: text, text: ['{word}']}}")
        found = Results(space, arm_records(space, 3.0), [])
        assert load_config(export(found, found.records[0], tmp_path).path).data.text == (kept,)


def test_a_full_disk_is_a_line_and_leaves_nothing_half_written(
    tmp_path: Path, study: Path, call: Call, pages: DataConfig
) -> None:
    with full_disk(2000):
        code, _, error = call("export", study)
    assert (code, error.count("\n")) == (2, 1)
    assert "cannot be written: File too large" in error
    assert not (study / "export").exists()
    trained_in(tmp_path / "trained", pages)
    with full_disk(60_000):
        code, _, error = call("export", "--checkpoint", tmp_path / "trained", "--to", "hf")
    assert (code, error.count("\n")) == (2, 1)
    assert f"{tmp_path / 'trained' / 'hf'}: cannot be written" in error
    assert not [path for path in (tmp_path / "trained").iterdir() if path.name.startswith((".", "hf"))]


def test_a_folder_that_is_not_ours_is_refused_before_anything_is_written(study: Path, call: Call) -> None:
    place = study / "export" / "target"
    call("export", study)
    (place / "dense" / "hf").mkdir()
    (place / "dense" / "hf" / "mine").write_text("mine")
    (place / "train.yaml").unlink()
    code, out, error = call("export", study, "--to", "hf")
    assert (code, out) == (2, "")
    assert "holds 'mine'" in error
    assert not (place / "train.yaml").exists()
    with pytest.raises(UserError, match="holds 'mine'"):
        export_forms(place / "dense" / "train.yaml", ("hf",), print)
