"""Programs that read what lpanas exports, each with its own packages: the tests run them as their users do."""

import sys
from pathlib import Path

import pytest
from launching import output

ROOT = Path(__file__).resolve().parent.parent
STAND_IN = """
import importlib.machinery, sys, types

def stand_in(name, **content):
    module = sys.modules[name] = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)  # by which it is found to be installed
    module.__dict__.update(content)
    return module
"""
"""How a script begins that puts a module with no more than its content in the place of a large package (for GPUs, sound, faster
loops) which the consumer imports at its start and does not need for what is tested here."""
SECONDS = 300
"""After which a script has failed; the longest takes a minute or so."""


def consume(name: str, script: str, *args: object) -> str:
    """What a script prints under a consumer's packages; skips the test where they are not installed."""
    packages = ROOT / ".venv" / "consumers" / name
    if not (packages / "installed").exists():
        pytest.skip(f"{name} is not installed: make .venv/consumers/{name}/installed")
    environment = {"PYTHONPATH": str(packages), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return output([sys.executable, "-c", script, *map(str, args)], SECONDS, **environment)
