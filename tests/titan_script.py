"""What torchtitan, under packages of its own, makes of exported folders: run by test_torchtitan.py, with a folder of cases.

Its code runs on a CPU but for the kernels that need a GPU: those of expert parallelism, which no Llama has; flex attention,
which has no backward pass on a CPU, and in whose place the same mask goes to torch's own attention; and what asks the GPU for
its name and its memory.
"""

import os
import sys
from pathlib import Path
from unittest.mock import MagicMock

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.fsdp import FSDPModule
from torch.nn.attention.flex_attention import create_mask


class Cpu:
    """torch.cpu, with what torchtitan asks a GPU."""

    get_device_name = staticmethod(lambda device: "cpu")
    get_device_properties = staticmethod(lambda device: MagicMock(total_memory=2**33))
    reset_peak_memory_stats = empty_cache = staticmethod(lambda *_: None)
    current_device = staticmethod(lambda: 0)
    memory_stats = staticmethod(lambda device: {})

    def __getattr__(self, name):
        return getattr(torch.cpu, name)


def attend(q, k, v, *, block_mask, scale, enable_gqa, **_):
    mask = create_mask(block_mask.mask_mod, q.shape[0], None, q.shape[2], k.shape[2], device="cpu")
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale, enable_gqa=enable_gqa), None


def on_a_cpu():
    sys.modules["torchtitan.distributed.minimal_async_ep.kernels"] = MagicMock()  # triton's
    torch.compile = lambda function=None, **_: function or (lambda one: one)
    import torchtitan.tools.utils as tools

    tools.device_type, tools.device_module = "cpu", Cpu()
    from torchtitan.models.common.attention import FlexAttention

    FlexAttention._compiled_flex_attn = staticmethod(attend)
    divide = FSDPModule.set_gradient_divide_factor
    FSDPModule.set_gradient_divide_factor = lambda self, factor: (  # gloo has sums alone
        divide(self, factor),
        self.set_force_sum_reduction_for_comms(True),
    )
    barrier = dist.barrier
    dist.barrier = lambda device_ids=None, **rest: barrier(**rest)
    tools.time.sleep = lambda seconds: None  # two seconds for the other ranks
    if not hasattr(dist, "set_timeout"):  # it came with torch 2.14
        dist.set_timeout = dist.distributed_c10d._set_pg_timeout


def loaded(folder, *flags):
    """The Trainer.Config of a package, by torchtitan's own loader and command line."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "lpanas_model"]:
        del sys.modules[name]
    sys.path[0] = str(folder / "torchtitan")
    from torchtitan.config import ConfigManager

    return ConfigManager().parse_args(["--module", "lpanas_model", "--config", "train", *flags])


def built(config):
    """The model without weights, as Trainer builds it."""
    model_config = config.model_spec.model
    model_config.update_from_config(config=config)
    with torch.device("meta"):
        model = model_config.build()
    model.verify_module_protocol()
    return model


def observed(folder):
    config = loaded(folder)
    model, spec = built(config), config.model_spec
    params, flops = spec.model.get_nparams_and_flops(model, config.training.seq_len)
    model.to_empty(device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        model.init_weights()
    optimizers = config.optimizer.build(model_parts=[model])
    built_schedule = config.lr_scheduler.build(optimizers=optimizers, training_steps=config.training.steps)
    schedule = built_schedule.schedulers[0].lr_lambdas[0]
    adapter = spec.state_dict_adapter(spec.model, None)
    started = {name: its.clone() for name, its in model.state_dict().items()}
    found = {
        "params": params,
        "flops": flops,
        "config": {key: getattr(config, key).to_dict() for key in ("dataloader", "lr_scheduler", "checkpoint", "metrics")},
        "training": {name: getattr(config.training, name) for name in config.training.__slots__},
        "seed": config.debug.seed,
        "checkpointing": config.activation_checkpoint is not None,
        "classes": {type(module).__name__ for module in model.modules()},
        "rates": {
            name: (group["initial_lr"], group["weight_decay"], group["betas"], group["eps"])
            for group in optimizers.optimizers[0].param_groups
            for name in adapter.to_hf(dict.fromkeys(group["param_names"]))
        },
        "shares": [schedule(step) for step in range(config.training.steps)],
        "started": adapter.to_hf(started),
    }
    ours = torch.load(folder / "ours.pt")
    model.load_state_dict(adapter.from_hf(ours["weights"]))
    positions = torch.arange(ours["tokens"].shape[1]).expand_as(ours["tokens"])
    with torch.no_grad():
        found["logits"] = model(ours["tokens"], positions, model.get_attention_masks(positions))
    return found


def trained(folder, stops, *flags):
    """(step, loss, gradient norm) of a training from given weights that is stopped after some steps, and goes on."""
    load = ["--checkpoint.initial_load_path", str(folder / "hf"), "--checkpoint.initial_load_in_hf"]
    whole = ["--checkpoint.no-last_save_model_only", "--lr_scheduler.total_steps", "12", "--dump_folder", str(folder / "out")]
    plain = ["--training.disable_cuda_graphs", "--debug.no-enable_structured_logging"]
    rows = []
    for steps in stops:
        trainer = loaded(folder, *load, *whole, *plain, "--training.steps", str(steps), *flags).build()
        trainer.metrics_processor.log = lambda step, loss, _, norm, **rest: rows.append((step, loss, norm))
        trainer.train()
        trainer.close()
    return rows


def alone(work):
    """All that is asked of one process."""
    alone = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 0}
    os.environ.update({name: str(value) for name, value in alone.items()})
    found = {folder.name: observed(folder) for folder in sorted((work / "models").iterdir())}
    for folder in sorted((work / "large").iterdir()):
        config = loaded(folder)
        found[folder.name] = config.model_spec.model.get_nparams_and_flops(built(config), config.training.seq_len)
    return found | {"rows": trained(work / "training", [7, 12])}


if __name__ == "__main__":
    place, *flags = sys.argv[1:]
    on_a_cpu()
    sys.path.insert(0, "")
    result = trained(Path(place), [4], *flags) if flags else alone(Path(place))
    if os.environ["RANK"] == "0":
        torch.save(result, Path(place) / "found.pt")
    os._exit(0)  # at a usual end a thread of its libraries is sometimes still running, and the process aborts
