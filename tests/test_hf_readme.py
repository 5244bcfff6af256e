"""What README.md of a Hugging Face folder says, run as it stands there."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hf_folders import CPU, DOCUMENTS, OPTIM, OTHER, RECIPE_SHAPE, recipe
from lpanas.lpa.config import UserError
from lpanas.lpa.model import build
from lpanas.lpa.optim import optimizer, schedule, set_rate
from lpanas.lpa.train_config import TrainConfig
from lpanas.lpa.weights import from_hf, to_hf
from lpanas.search.hf_export import export_config
from lpanas.search.hf_readme import readme

UNIFORM = {"lr": 3e-3, "lr_rule": "uniform", "warmup_share": 0.25}
FLOAT = {"precision": "float32", "activation_checkpointing": False}


@pytest.fixture(autouse=True)
def in_folder(hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed: pip install 'lpanas[hf]'")
    monkeypatch.chdir(tmp_path)


def run(folder: Path) -> dict[str, Any]:
    """The names that the code of the README has defined when it has ended."""
    code = (folder / "hf" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {"__name__": "snippet"}
    exec(compile(code, "README.md", "exec"), names)
    return names


def losses(names: dict[str, Any]) -> list[float]:
    return [line["loss"] for line in names["trainer"].state.log_history if "loss" in line]


def rows(config: TrainConfig, count: int) -> list[torch.Tensor]:
    """The documents in their order as windows, by hand."""
    ids = [token for text in DOCUMENTS for token in (*text.encode(), 256)]
    size = config.model.context
    assert len(ids) > count * size
    return [torch.tensor(ids[first : first + size]) for first in range(0, count * size, size)]


@pytest.mark.parametrize(
    "fields",
    [
        FLOAT,
        FLOAT | {"optim": OPTIM | {"schedule": "linear", "clip": 0.3, "eps": 1e-5}, "microbatch": 2},
        FLOAT | {"model": RECIPE_SHAPE},
        OTHER,
        OTHER | {"optim": UNIFORM | {"weight_decay": 0.2, "beta1": 0.8, "beta2": 0.9, "eps": 1e-5}, "microbatch": 4},
    ],
)
def test_the_trainer_does_what_our_optimizer_does_on_the_same_windows(hub: Any, fields: Any, tmp_path: Path) -> None:
    config = recipe(tmp_path, "hf", **fields)
    hub.set_seed(config.seed)
    read = hub.AutoConfig.from_pretrained("hf", trust_remote_code=True)
    start = hub.AutoModelForCausalLM.from_config(read, trust_remote_code=True).state_dict()
    ours = build(config.model, CPU, 0)
    from_hf(ours, start)
    adamw, expected = optimizer(ours, config.optim), list[float]()
    first = 0.0 if config.optim.warmup_share else 1.0
    assert f"that of the first step is {'the peak' if first else '0'}" in (tmp_path / "hf" / "README.md").read_text()
    windows = torch.stack(rows(config, config.steps * config.batch_size)).view(config.steps, config.batch_size, -1)
    for step, batch in enumerate(windows):
        loss = F.cross_entropy(ours(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()
        if config.optim.clip:
            torch.nn.utils.clip_grad_norm_(ours.parameters(), config.optim.clip)
        set_rate(adamw, schedule(config.optim, step - 1, config.steps) if step else first)  # a step later
        adamw.step()
        adamw.zero_grad()
        expected.append(loss.item())
    names = run(tmp_path)
    assert losses(names) == pytest.approx(expected, rel=1e-4)
    assert expected[-1] < expected[0] - 0.5
    theirs = names["model"].state_dict()
    for name, tensor in to_hf(ours).items():
        moved = (tensor - start[name]).norm()
        assert (theirs[name] - tensor).norm() < 0.01 * moved, name


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated:FutureWarning")  # a name that each version knows
def test_the_code_runs_in_bfloat16_and_saves_what_loads(hub: Any, tmp_path: Path) -> None:
    config = recipe(tmp_path, "hf")
    found = losses(run(tmp_path))
    assert len(found) == config.steps
    assert found[-1] < found[0] - 1
    saved = hub.AutoModelForCausalLM.from_pretrained("trained/trainer/checkpoint-8", trust_remote_code=True)
    assert type(saved).__name__ == "LowRankLlamaForCausalLM"


def test_a_short_text_is_read_again_in_the_same_order(tmp_path: Path) -> None:
    config = recipe(tmp_path, "hf", **FLOAT, tokens=8 * 48)
    names = run(tmp_path)
    ids = [token for text in DOCUMENTS for token in (*text.encode(), 256)] * 2
    count = len(ids) // config.model.context
    found = [token for row in islice(names["Windows"](), count) for token in row["input_ids"].tolist()]
    assert found == ids[: count * config.model.context]


def test_it_says_what_the_folder_lacks_and_what_is_otherwise(tmp_path: Path) -> None:
    recipe(tmp_path / "a", "hf", data={"source": "stdlib"}, precision="auto")
    text = " ".join((tmp_path / "a" / "hf" / "README.md").read_text().split())
    assert "FILES = ['text.jsonl']" in text
    assert "put yours into text.jsonl" in text
    assert "bfloat16 is taken as it stands" in text
    assert "From transformers 5.24 on gradient_checkpointing" in text


def test_it_is_replaced_by_its_successor_and_no_other_readme_is(tmp_path: Path) -> None:
    recipe(tmp_path / "a", "hf")
    path, lines = tmp_path / "a" / "hf" / "README.md", list[str]()
    whole = path.read_text()
    path.write_text(whole[:100])
    export_config(tmp_path / "a" / "train.yaml", lines.append)
    assert path.read_text() == whole
    path.write_text("# My model\n")
    with pytest.raises(UserError, match=r"holds 'README\.md'; expected a new or empty folder"):
        export_config(tmp_path / "a" / "train.yaml", lines.append)
    assert path.read_text() == "# My model\n"
    assert lines == []


def test_a_folder_without_a_tokenizer_says_so_first(tmp_path: Path) -> None:
    config = recipe(tmp_path, "hf")
    assert "First add a tokenizer" not in readme(config, has_tokenizer=True)
    assert "First add a tokenizer's files here, and eos_token_id to config.json" in " ".join(readme(config, False).split())
