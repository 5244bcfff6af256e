import json
from typing import Any

import pytest
import torch
from consumer import consume
from hf_folders import trained_in, trained_model
from lpanas.lpa.data import DataConfig
from lpanas.lpa.model import Decoder
from lpanas.search.hf_export import export_checkpoint

SCRIPT = """
import json, os, sys
os.chdir(sys.argv[1])
os.environ["HF_HOME"] = os.path.abspath("home")
import lm_eval
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

harness = HFLM(pretrained="hf", trust_remote_code=True, device="cpu", dtype="float32", batch_size=2)
pairs, texts, task = json.load(open("asked.json"))
asked = [Instance("loglikelihood", {}, tuple(pair), number) for number, pair in enumerate(pairs)]
whole = [Instance("loglikelihood_rolling", {}, (text,), number) for number, text in enumerate(texts)]
found = [harness.loglikelihood(asked), harness.loglikelihood_rolling(whole)]
options = {"task_manager": TaskManager(include_defaults=False), "bootstrap_iters": 0}
evaluated = lm_eval.simple_evaluate(harness, tasks=[task], **options)
answers = [[value for (value, _), in row["resps"]] for row in evaluated["samples"]["sats"]]
print("\\n" + json.dumps([*found, evaluated["results"]["sats"]["acc,none"], answers]))
"""
PAIRS = [("page 7 says:", " the cat"), ("the", " mat. the"), ("sat on", " 日本")]
TEXTS = ["page 9 says: the cat sat"]
ROWS: list[dict[str, Any]] = [
    {"before": "the cat sat on the", "after": [" dog.", " mat.", " log."], "right": 1},
    {"before": "page 12", "after": [" says", " sees"], "right": 1},
]
TASK = {
    "task": "sats",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{before}}",
    "doc_to_choice": "{{after}}",
    "doc_to_target": "{{right}}",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
"""Of the harness's own kind, on rows of a file."""


@pytest.fixture(scope="module")
def evaluated(pages: DataConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Decoder, list[Any]]:
    """A trained model, and what the harness finds in its folder."""
    folder = tmp_path_factory.mktemp("evaluated")
    trained_in(folder, pages)
    export_checkpoint(folder, None, False, print)
    (folder / "asked.json").write_text(json.dumps([PAIRS, TEXTS, TASK]))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return trained_model(folder), json.loads(consume("lm_eval", SCRIPT, folder).splitlines()[-1])


def logs(ours: Decoder, ids: list[int], count: int) -> tuple[float, bool]:
    """The log-likelihood of the last tokens of a text, and whether each is the likeliest."""
    with torch.no_grad():
        found = ours(torch.tensor([ids[:-1]]))[0].log_softmax(-1)[-count:]
    last = torch.tensor(ids[-count:])
    return found.gather(-1, last[:, None]).sum().item(), torch.equal(found.argmax(-1), last)


def test_the_harness_finds_our_log_likelihoods(evaluated: tuple[Decoder, list[Any]]) -> None:
    ours, (found, whole, *_) = evaluated
    for (before, after), (value, is_greedy) in zip(PAIRS, found, strict=True):
        expected, likeliest = logs(ours, [*f"{before}{after}".encode()], len(after.encode()))
        assert value == pytest.approx(expected, rel=1e-5, abs=1e-4)
        assert is_greedy is likeliest
    for text, value in zip(TEXTS, whole, strict=True):  # begins after an end-of-text token, as a document does in training
        assert value == pytest.approx(logs(ours, [256, *text.encode()], len(text))[0], rel=1e-5)


def test_the_harness_evaluates_a_task_as_our_model_answers_it(evaluated: tuple[Decoder, list[Any]]) -> None:
    ours, (_, _, accuracy, answers) = evaluated
    expected = [[logs(ours, [*f"{row['before']}{one}".encode()], len(one))[0] for one in row["after"]] for row in ROWS]
    assert [len(its) for its in answers] == [3, 2]
    for found, its in zip(answers, expected, strict=True):
        assert found == pytest.approx(its, rel=1e-5, abs=1e-4)
    right = [its.index(max(its)) == row["right"] for its, row in zip(expected, ROWS, strict=True)]
    assert accuracy == sum(right) / len(right)
