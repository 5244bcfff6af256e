"""Tensors of which each of many processes has a part (DTensor), beside plain ones."""

import sys

import torch
from torch import Tensor, nn


def is_part(tensor: Tensor) -> bool:
    """Whether a tensor is in parts."""
    made = sys.modules.get("torch.distributed.tensor")  # half a second that a single process saves
    return made is not None and isinstance(tensor, made.DTensor)


@torch.no_grad()
def put(target: Tensor, whole: Tensor) -> None:
    """Copy a tensor, or this process's part of it; nothing is sent."""
    whole = whole.to(target.device)
    if is_part(target):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(target, DTensor)
        whole = distribute_tensor(whole, target.device_mesh, target.placements, src_data_rank=None)
    target.copy_(whole)


def whole(tensor: Tensor) -> Tensor:
    """All of it; every process calls this."""
    if is_part(tensor):
        from torch.distributed.tensor import DTensor

        assert isinstance(tensor, DTensor)
        return tensor.full_tensor()
    return tensor


def average_next(model: nn.Module, wanted: bool) -> None:
    """Whether the next backward pass of a model in parts averages its gradient over the processes, and what was kept before."""
    made = sys.modules.get("torch.distributed.fsdp")
    if made is not None and isinstance(model, made.FSDPModule):
        model.set_requires_gradient_sync(wanted)
