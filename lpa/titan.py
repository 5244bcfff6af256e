"""A training as a package for torchtitan 0.3.0: the files of recipe/, and a config_registry.py with what train.yaml says."""

import json
import re
from importlib import resources
from pathlib import Path

import torch

from .config import UserError
from .files import replace_text, writing
from .hf import check_expressible
from .model import Decoder
from .model_config import ModelConfig
from .optim import OptimConfig, multiplier
from .train_config import TrainConfig

PACKAGE, REGISTRY, FUNCTION, LOW_RANK = "lpanas_model", "config_registry.py", "train", "low_rank.py"
SHARDS = "shards"
"""Where the token shards are expected when train.yaml names none: below the folder in which torchtitan is started."""
_FILES = ("__init__.py", "model.py", LOW_RANK, "training.py", "shards.py")
WRITTEN = (*_FILES, REGISTRY)
"""The files of a package; a dense model's has no low-rank layer."""
_SMALLEST_HEAD = 16
"""What FlexAttention takes on a GPU (torch/_inductor/kernel/flex/flex_attention.py)."""
_NAMES = {
    "embedding": "tok_embeddings",
    "head": "lm_head",
    "norm": "norm",
    "attention_norm": "attention_norm",
    "ffn_norm": "ffn_norm",
    "attention.q": "attention.qkv_linear.wq",
    "attention.k": "attention.qkv_linear.wk",
    "attention.v": "attention.qkv_linear.wv",
    "attention.o": "attention.wo",
    "ffn.gate": "feed_forward.w1",
    "ffn.up": "feed_forward.w3",
    "ffn.down": "feed_forward.w2",
}
_SHORT = {ours.rpartition(".")[2]: theirs.rpartition(".")[2] for ours, theirs in _NAMES.items()}


def check(config: ModelConfig) -> None:
    """Raises UserError for a model that torchtitan's Llama is not."""
    check_expressible(config, "torchtitan", "torchtitan's")
    if config.d_head < _SMALLEST_HEAD:
        raise UserError(f"torchtitan: model.head_dim: {config.d_head} is too small for its attention; expected 16 or more")


def write_package(folder: Path, config: TrainConfig) -> Path:
    """Write the package into a folder; returns it. What else is there stays. Raises UserError."""
    check(config.model)
    package, low_rank = folder / PACKAGE, config.model.placement.sublayers != "dense"
    source = resources.files("lpanas.lpa").joinpath("recipe")
    with writing(package):
        package.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            if name == LOW_RANK and not low_rank:
                (package / name).unlink(missing_ok=True)
            else:
                replace_text(package / name, source.joinpath(name).read_text(encoding="utf-8"))
        replace_text(package / REGISTRY, registry(config))
    return package


def registry(config: TrainConfig) -> str:
    """config_registry.py, with a function that gives the Trainer.Config."""
    model, optim = config.model, config.optim
    flavor, low_rank = model.placement.sublayers, model.placement.sublayers != "dense"
    checkpointing = config.activation_checkpointing
    full = "from torchtitan.distributed.activation_checkpoint import FullAC\n" if checkpointing else ""
    factors = "from .low_rank import LowRankConverter, full_names\n" if low_rank else ""
    shards = SHARDS if config.data.shards is None else str(Path(config.data.shards).expanduser().absolute())
    precision = "float32" if config.precision == "float32" else "bfloat16"
    clip = 'float("inf")' if optim.clip is None else repr(optim.clip)
    return f'''"""What `lpanas export` has made of a train.yaml: {model.placement.text}."""

from torchtitan.components.checkpoint import CheckpointManager
from torchtitan.components.loss import ChunkedLossWrapper, CrossEntropyLoss
from torchtitan.components.metrics import MetricsProcessor
from torchtitan.config import DebugConfig, TrainingConfig
{full}from torchtitan.trainer import Trainer

{factors}from .model import Shape, spec
from .shards import NoTokenizer, ShardLoader
from .training import Group, Schedule, adamw, local_batch

SHAPE = Shape(
{_shape(model)}
)
{_ranks(model) if low_rank else ""}GROUPS = [
{_groups(config)}
]


def {FUNCTION}() -> Trainer.Config:
    """{config.steps:,} steps of {config.batch_size} sequences of {model.context} tokens."""
    return Trainer.Config(
        model_spec=spec(SHAPE, "{flavor}"{_converters(model) if low_rank else ""}),
        loss=ChunkedLossWrapper.Config(loss_fn=CrossEntropyLoss.Config(global_vocab_size=SHAPE.vocab_size)),
        hf_assets_path=".",
        tokenizer=NoTokenizer.Config(),
        dataloader=ShardLoader.Config(dataset_path={json.dumps(shards)}, vocab_size=SHAPE.vocab_size, seed={config.seed}),
        optimizer=adamw(lr={optim.lr!r}, betas=({optim.beta1!r}, {optim.beta2!r}), eps={optim.eps!r}, groups=GROUPS),
        lr_scheduler=Schedule.Config(
            warmup_steps={_warmup(optim, config.steps)}, decay_type="{optim.schedule}", min_lr_factor={optim.final_share!r}
        ),
        training=TrainingConfig(
            local_batch_size=local_batch({config.batch_size}, {config.microbatch or config.batch_size}),
            global_batch_size={config.batch_size},
            seq_len={model.context},
            max_norm={clip},
            steps={config.steps},
            mixed_precision_param="{precision}",
        ),
        activation_checkpoint={"FullAC.Config()" if checkpointing else "None"},
        checkpoint=CheckpointManager.Config(enable=True, interval={config.checkpoint_every}),
        metrics=MetricsProcessor.Config(log_freq={config.log_every}),
        debug=DebugConfig(seed={config.seed}),
    )
'''


def titan_name(name: str) -> str:
    """Our name of a tensor as torchtitan's: blocks.0.attention.q.a.weight -> layers.0.attention.qkv_linear.wq.a.weight."""
    parts = re.fullmatch(r"(?:blocks\.(\d+)\.)?(.+?)((?:\.[ab])?\.\w+)", name)
    assert parts is not None
    return f"{f'layers.{parts[1]}.' if parts[1] else ''}{_NAMES[parts[2]]}{parts[3]}"


def _shape(model: ModelConfig) -> str:
    same = ("vocab_size", "d_model", "d_ff", "n_layers", "n_heads", "context", "norm_eps", "rope_theta")
    same += ("tie_embeddings", "head_bias", "init")
    fields = {name: getattr(model, name) for name in same} | {"n_kv_heads": model.kv_heads, "head_dim": model.d_head}
    return "\n".join(f"    {name}={value!r}," for name, value in fields.items()).replace("'", '"')


def _ranks(model: ModelConfig) -> str:
    """A line for each run of layers that are alike."""
    bands = list[str]()
    for first, count in model.placement.alike:
        ranks = {_SHORT[name]: model.rank(first, name) for name in model.projections}
        its = {name: rank for name, rank in ranks.items() if rank is not None}
        bands += [f"        (range({first}, {first + count}), {its}),"] if its else []
    return "\n".join(["RANKS = full_names(", "    [", *bands, "    ]", ")\n"]).replace("'", '"')


def _converters(model: ModelConfig) -> str:
    return f', [LowRankConverter.Config(shape=SHAPE, ranks=RANKS, activation="{model.factor_activation}")]'


def _warmup(optim: OptimConfig, steps: int) -> int:
    return round(optim.warmup_share * steps)


def _groups(config: TrainConfig) -> str:
    """A group for each rate and decay, with the names of its parameters and the layers that have them."""
    with torch.device("meta"):
        model = Decoder(config.model)
    layers = dict[tuple[float, float], dict[str, list[int]]]()
    for name, parameter in model.named_parameters():
        key = multiplier(config.optim, model, name), config.optim.weight_decay if parameter.ndim == 2 else 0.0
        its = re.fullmatch(r"(?:layers\.(\d+)\.)?(.+)", titan_name(name))
        assert its is not None
        layers.setdefault(key, {}).setdefault(its[2], []).extend([int(its[1])] if its[1] else [])
    if config.model.tie_embeddings:  # whichever of the two names the one matrix goes by
        next(its for its in layers.values() if "tok_embeddings.weight" in its)["lm_head.weight"] = []
    return "\n".join(_group(share, decay, names) for (share, decay), names in layers.items())


def _group(share: float, decay: float, names: dict[str, list[int]]) -> str:
    its = [f'            "{name}": {_layers(layers)},' for name, layers in names.items()]
    head = ["    Group(", f"        share={share!r},", f"        weight_decay={decay!r},", "        names={"]
    return "\n".join([*head, *its, "        },", "    ),"])


def _layers(its: list[int]) -> str:
    alike = its and its == list(range(its[0], its[-1] + 1))
    return f"range({its[0]}, {its[-1] + 1})" if alike else str(its)
