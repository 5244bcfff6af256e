"""README.md of a Hugging Face folder without weights: how transformers' Trainer trains it as `lpanas train` would."""

import textwrap
from typing import Any

from ..lpa.hf import TITLE
from ..lpa.train_config import TrainConfig
from . import hf_trainer as trainer


def readme(config: TrainConfig, has_tokenizer: bool) -> str:
    """For the folder `hf` beside a train.yaml."""
    files, notes = _text(config)
    said = [*_head(config, has_tokenizer), *notes]
    listed = "\n".join(_wrapped(f"- {line}", "  ") for line in [*trainer.differences(config), *_differences(config)])
    return f"""{TITLE}: {config.model.placement.text}

A Llama without weights: `from_config` draws them, as `lpanas train` does.

## Train it

{_wrapped(" ".join(said))}

```python
{_code(config, files)}
```

Other than in lpanas train:

{listed}
"""


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _head(config: TrainConfig, has_tokenizer: bool) -> list[str]:
    return [
        "The training of train.yaml under transformers' Trainer (5.4 or newer, with accelerate), in the folder above this one.",
        *([] if has_tokenizer else ["First add a tokenizer's files here, and eos_token_id to config.json: there are none."]),
        f"On N GPUs divide gradient_accumulation_steps by N: a step is {config.batch_size} sequences.",
    ]


def _differences(config: TrainConfig) -> list[str]:
    lines = ["Windows come in the order of the text; there in a random one."]
    if config.activation_checkpointing:
        lines.append("From transformers 5.24 on gradient_checkpointing is called activation_checkpointing; both names work.")
    if config.precision == "auto":
        lines.append("bfloat16 is taken as it stands; there only where the GPU has it.")
    return lines


def _text(config: TrainConfig) -> tuple[dict[str, str | list[str]], list[str]]:
    """(The files that the code reads and the field that holds a document, what is to be said of them)."""
    files = trainer.text_files(config.data)
    if files and all(path.suffix == ".jsonl" for path in files):
        return {"FILES": [str(path) for path in files], "FIELD": config.data.text_field}, []
    return {"FILES": [trainer.PLACEHOLDER], "FIELD": "text"}, [trainer.yours(config.data)]


def _code(config: TrainConfig, files: dict[str, str | list[str]]) -> str:
    own = config.optim.lr_rule == "mup"
    constants = "\n".join(f"{name} = {value!r}" for name, value in {**files, "CONTEXT": config.model.context}.items())
    given = "\n".join(f"    {name}={value!r}," for name, value in _arguments(config).items())
    return f"""import json

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments, set_seed

{constants}


class Windows(torch.utils.data.IterableDataset):
    \"\"\"The text in rows of CONTEXT tokens, again and again; end-of-text follows every document.\"\"\"

    def __iter__(self):
        held = []
        while True:
            for name in FILES:
                with open(name, encoding="utf-8") as lines:
                    for line in lines:
                        held += [*tokenizer(json.loads(line)[FIELD])["input_ids"], tokenizer.eos_token_id]
                        while len(held) >= CONTEXT:
                            row, held = torch.tensor(held[:CONTEXT]), held[CONTEXT:]
                            yield {{"input_ids": row, "labels": row}}

{_rated(config) if own else ""}
set_seed({config.seed})
tokenizer = AutoTokenizer.from_pretrained("hf", trust_remote_code=True)
config = AutoConfig.from_pretrained("hf", trust_remote_code=True)
model = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
arguments = TrainingArguments(
    output_dir="trained/trainer",
    use_cpu=not torch.cuda.is_available(),
{given}
)
trainer = {"Rated" if own else "Trainer"}(model, arguments, train_dataset=Windows())
trainer.train()"""


def _rated(config: TrainConfig) -> str:
    """A Trainer whose optimizer is ours."""
    optim = config.optim
    base = optim.lr_base_width or config.model.d_model
    return f"""
class Rated(Trainer):
    \"\"\"Each matrix at its own learning rate, a low-rank one's two factors each at theirs.\"\"\"

    def create_optimizer(self, model=None):
        groups = self.model.parameter_groups(lr={optim.lr!r}, base_width={base!r}, weight_decay={optim.weight_decay!r})
        betas = ({optim.beta1!r}, {optim.beta2!r})
        self.optimizer = torch.optim.AdamW(groups, lr={optim.lr!r}, betas=betas, eps={optim.eps!r}, fused=True)
        return self.optimizer

"""


def _arguments(config: TrainConfig) -> dict[str, Any]:
    """Of TrainingArguments."""
    optim = config.optim
    kind, arguments = trainer.schedule(optim, optim.lr)
    shared = trainer.shared(config)
    if optim.lr_rule == "mup":  # the optimizer is given
        for name in ("weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"):
            del shared[name]
    else:
        shared["optim"] = "adamw_torch_fused"
    if config.activation_checkpointing:
        shared["gradient_checkpointing"] = True
    return {
        "per_device_train_batch_size": trainer.microbatch(config),
        "learning_rate": optim.lr,
        "lr_scheduler_type": kind,
        "lr_scheduler_kwargs": arguments,
        **shared,
    }
