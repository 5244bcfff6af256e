import os
import re
import shutil
import socket
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import browser
import pytest
import torch
from hypothesis import settings
from lpanas.lpa.data import DataConfig, Shards
from lpanas.lpa.model_config import ModelConfig
from lpanas.lpa.prepare import open_shards
from lpanas.search import cli
from lpanas.search.executor import LocalExecutor, Setup
from making import Call, tiny_space
from optuna.storages import RDBStorage
from postgres import Postgres, binaries

settings.register_profile("lpanas", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("lpanas")
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that prepared data goes to."""
    folder = tmp_path_factory.mktemp("cache")
    os.environ["LPANAS_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """A repetitive text in many small files, so that each split has some."""
    folder = tmp_path_factory.mktemp("pages")
    for number in range(120):
        (folder / f"{number:03}.txt").write_text(f"page {number} says: " + "the cat sat on the mat. " * 4)
    return DataConfig(source="text", text=(f"{folder}/*.txt",), valid_tokens=256, max_epochs=None)


@pytest.fixture(scope="session")
def shards(pages: DataConfig) -> Shards:
    return open_shards(pages)


@pytest.fixture(scope="session")
def tiny() -> ModelConfig:
    """A dense model of two layers that reads bytes."""
    return ModelConfig.parse(
        {"vocab_size": 257, "d_model": 16, "d_ff": 32, "n_layers": 2, "n_heads": 2, "context": 16, "rank_multiple": 4}, "tiny"
    )


@pytest.fixture(scope="session")
def setup(pages: DataConfig, shards: Shards) -> Setup:
    """What the workers of a tiny space are told."""
    return Setup(tiny_space().proxy.change(data=pages), shards.folder)


@pytest.fixture(scope="session")
def two(setup: Setup) -> Generator[LocalExecutor]:
    """An executor with two workers, idle between tests."""
    with LocalExecutor(setup, 2) as executor:
        yield executor


@pytest.fixture(scope="session")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with Optuna's tables and no study, as making the tables takes half a second."""
    path = tmp_path_factory.mktemp("tables") / "study.db"
    RDBStorage(f"sqlite:///{path}")
    return path


@pytest.fixture
def url(tables: Path, tmp_path: Path) -> str:
    """A database without a study."""
    return f"sqlite:///{shutil.copy(tables, tmp_path)}"


@pytest.fixture(scope="session")
def postgres() -> Generator[Postgres]:
    """A PostgreSQL server; without one here its tests are skipped."""
    pytest.importorskip("psycopg", reason="psycopg is not installed: pip install 'lpanas[postgresql]'")
    if binaries() is None:
        pytest.skip("there is no PostgreSQL server here: neither Debian's postgresql nor the wheel of the extra `dev`")
    try:
        server = Postgres()
    except PermissionError as error:  # as root it runs as another user, who may not be let into root's folders
        pytest.skip(f"PostgreSQL cannot run here: {error}")
    with server:
        yield server


@pytest.fixture
def server_url(postgres: Postgres, request: pytest.FixtureRequest) -> str:
    """An empty database of the test's own on the server."""
    return postgres.database(re.sub(r"\W", "_", request.node.name)[-60:])


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Generator[Any]:
    """transformers, without a network and with a folder of its own for the code of models."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf_home")))
        transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install 'lpanas[hf]'")
        cache = str(tmp_path_factory.mktemp("modules"))
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", cache)
        patch.setattr("sys.path", [*sys.path])
        patch.setattr(socket.socket, "connect", _no_network)
        yield transformers


def _no_network(*_: object) -> None:
    raise AssertionError("something asked the network")


@pytest.fixture(scope="module")
def chromium() -> Generator[object]:
    """A browser (see browser.py) for a module, as its event loop runs in this thread all the while; without one here its
    tests are skipped."""
    for name in ("playwright", "axe_core_python"):
        pytest.importorskip(name, reason=f"{name} is not installed: pip install 'lpanas[dev]'")
    if browser.program() is None:
        pytest.skip("there is no Chromium or Chrome here: apt-get install chromium, or BROWSER_PATH")
    with browser.launched() as it:
        yield it


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """The command line in this process: exit code, standard output, standard error."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["lpanas", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capfd.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return run
