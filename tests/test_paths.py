import glob
import os
from pathlib import Path

import pytest
from lpanas.lpa.config import UserError
from lpanas.lpa.paths import SHARDS, below, files_of

NAMES = ("a.txt", "b.md", "data[1].txt", "sub/a.txt", "sub/deep/c.txt", "sub/.hidden/d.txt", ".e.txt", "other/a.txt")


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


GLOBS = [
    "*",
    "*.txt",
    "**",
    "**/*.txt",
    "sub/**",
    "*/a.txt",
    "**/deep/*",
    "s*/**/*.txt",
    "[ab].*",
    ".*",
    "./*",
    "**/**",
    "?.txt",
]


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("word", GLOBS)
def test_a_glob_gives_what_pythons_glob_gives(word: str, absolute: bool, tree: Path) -> None:
    word = f"{tree}/{word}" if absolute else word
    assert files_of(word) == sorted({Path(name) for name in glob.glob(word, recursive=True) if os.path.isfile(name)})


def test_a_name_that_exists_is_taken_as_it_is(tree: Path) -> None:
    assert files_of("data[1].txt") == [Path("data[1].txt")]
    (tree / "data1.txt").write_text("the glob means this one")
    (tree / "data[1].txt").unlink()
    assert files_of("data[1].txt") == [Path("data1.txt")]


def test_links_are_followed_and_each_folder_counts_once(tree: Path) -> None:
    for name, to in {"loop": ".", "sub/up": "..", "twice": "sub", "link.txt": "a.txt", "gone": "nowhere"}.items():
        (tree / name).symlink_to(to)
    found = [path.resolve().relative_to(tree) for path in files_of("**/*.txt")]
    visible = [Path(name) for name in NAMES if "/." not in f"/{name}" and name.endswith(".txt")]
    assert sorted(found) == sorted([*visible, Path("a.txt")])  # link.txt
    assert sorted({path.resolve() for path in below(Path("twice"))}) == sorted({path.resolve() for path in below(Path("."))})


def test_folders_of_token_shards_are_left_out(tree: Path) -> None:
    before = files_of("**"), below(tree)
    (tree / "sub" / "shards").mkdir()
    for name in SHARDS:
        (tree / "sub" / "shards" / name).write_bytes(b"\xff")
    assert (files_of("**"), below(tree)) == before
    with pytest.raises(UserError, match=r"'sub/shards' holds token shards already; .* reads them with 'source: shards'"):
        files_of("sub/shards")


def test_what_gives_no_file_is_told_apart(tree: Path) -> None:
    (tree / "empty").mkdir()
    (tree / "empty" / ".hidden").write_text("a")
    (tree / "dangling").symlink_to("nowhere")
    os.mkfifo(tree / "pipe")
    said = {
        "nowhere": "no file matches 'nowhere'",
        "no*": "no file matches 'no*'",
        "a.txt/*": "no file matches 'a.txt/*'",
        "em*": "no file matches 'em*', only folders; for their files write 'em*/**'",
        "empty": "the folder 'empty' holds no files (hidden ones do not count)",
        "dangling": "'dangling' is a link to nothing",
        "pipe": "'pipe' is neither a file nor a folder",
        "a\0b": "no file matches 'a\0b'",
    }
    for word, expected in said.items():
        with pytest.raises(UserError) as error:
            files_of(word)
        assert str(error.value) == f"data.text: {expected}"


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
@pytest.mark.parametrize("word", [".", "**", "sub", "sub/*", "sub/a.txt"])
def test_a_folder_that_cannot_be_read_is_named(word: str, tree: Path) -> None:
    (tree / "sub").chmod(0)
    try:
        with pytest.raises(UserError, match=r"sub.* cannot be read: Permission denied"):
            files_of(word)
    finally:
        (tree / "sub").chmod(0o700)
