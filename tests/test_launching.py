"""The helper of tests that start programs."""

import sys
from pathlib import Path

import pytest
from launching import output

SCRIPT = """
import subprocess, sys, time

child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], start_new_session=True)
print(child.pid, file=open(sys.argv[1], "w"), flush=True)
print("what it waits for", file=sys.stderr, flush=True)
time.sleep(1000)
"""


def test_a_program_that_takes_too_long_fails_with_its_words_and_leaves_no_process(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception, match=r"^not done after 3 s: what it waits for\n$"):
        output([sys.executable, "-c", SCRIPT, str(tmp_path / "child")], seconds=3)
    child = int((tmp_path / "child").read_text())
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_program_that_fails_shows_its_words() -> None:
    with pytest.raises(AssertionError, match="because"):
        output([sys.executable, "-c", "import sys; sys.exit('because')"], seconds=100)
