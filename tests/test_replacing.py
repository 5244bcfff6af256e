"""What an export leaves of an earlier one."""

import shutil
from pathlib import Path

from lpanas.search.export import export
from lpanas.search.predict import Assumed
from lpanas.search.presets import load_config
from lpanas.search.results import Results
from making import arm_records, tiny_space

PROSE = Path(__file__).parents[1] / "runs" / "reference" / "2026-11-25_prose"
SPACE = tiny_space()
FOUND = Results(SPACE, arm_records(SPACE, 3.0, 3.1, 3.2, 3.3), [])
RECORD = FOUND.records[2]


def test_what_another_run_has_left_is_named_when_it_is_replaced(tmp_path):
    path = export(FOUND, FOUND.records[1], tmp_path).path
    assert export(FOUND, FOUND.records[1], tmp_path).replaced == ()
    assert export(FOUND, FOUND.records[1], tmp_path, assumed=Assumed(0.3)).replaced == ()
    (line,) = export(FOUND, RECORD, tmp_path).replaced
    assert line == f"replaced {path}, which was: Exported by lpanas from trial-1 of the study 'tiny'"
    (path.parent / "train").mkdir()
    (line,) = export(FOUND, FOUND.records[1], tmp_path).replaced
    assert line.endswith(f"; {path.parent / 'train'} holds a training of that: give this one another --out")
    assert not list(tmp_path.rglob("*.old*"))


def test_what_was_edited_by_hand_is_kept_and_its_place_is_said(tmp_path):
    path = export(FOUND, RECORD, tmp_path).path
    mine = path.read_text().replace("evals: 100", "evals: 7")
    path.write_text(mine)
    (line,) = export(FOUND, RECORD, tmp_path).replaced
    old = path.with_name("train.yaml.old")
    assert line == (
        f"replaced {path}, which was of the same run, with other keys; that was not as exported, and is kept as {old}"
    )
    assert (old.read_text(), load_config(path).evals) == (mine, 100)
    noted = path.read_text().replace("model:\n", "# my own note\nmodel:\n", 1)
    path.write_text(noted)
    (line,) = export(FOUND, RECORD, tmp_path).replaced
    assert "with other comments" in line
    assert line.endswith(f"kept as {old}-2")
    path.write_bytes(b"mine: \xff\n")
    (line,) = export(FOUND, RECORD, tmp_path).replaced
    assert "which was not exported by lpanas" in line
    kept = [one.read_bytes() for one in sorted(path.parent.glob("train.yaml.old*"))]
    assert kept == [mine.encode(), noted.encode(), b"mine: \xff\n"]
    assert export(FOUND, RECORD, tmp_path).replaced == ()


def test_an_edit_of_the_twin_or_of_the_script_is_kept_too(tmp_path):
    done = export(FOUND, RECORD, tmp_path)
    script = done.path.parent / "slurm.sh"
    for file in (done.dense, script):
        file.write_text(file.read_text() + "# mine\n")
    assert len(export(FOUND, FOUND.records[1], tmp_path).replaced) == 3
    for file in (done.dense, script):
        assert file.with_name(f"{file.name}.old").read_text().endswith("# mine\n")
        assert "# mine" not in file.read_text()


def test_a_line_in_the_terminal_names_what_was_replaced(tmp_path, call):
    shutil.copytree(PROSE, tmp_path / "prose")
    assert "replaced" not in call("export", tmp_path / "prose")[1]
    said = call("export", tmp_path / "prose", "--pick", "2")[1].replace("\n", "")
    assert "which was: Exported by lpanas from trial-4 of the study 'prose'" in said
    assert "replaced" not in call("export", tmp_path / "prose", "--pick", "2", "--target", "llama-9m")[2]
