"""Where a run computes: this process alone or one of several, on the processor or on GPUs, with weights whole or sharded.

Several processes are started by `accelerate launch` or `torchrun`, which say in the environment how many there are;
accelerate joins them, over gloo on processors and NCCL on GPUs. Each computes its share of a step's sequences, and the
gradients are added up. A step's sequences are the same however many processes share them, so a run may go on
with another number of them than it began with. Knows nothing of what is learnt.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from model.schema import DiffcoderError

if TYPE_CHECKING:
    from torch.distributed import DeviceMesh

PROCESSOR = torch.device("cpu")

# What `accelerate launch` says of FSDP, as far as it is not free: the rest of its settings is for other models' classes.
_FSDP = {
    "FSDP_VERSION": "2",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_OFFLOAD_PARAMS": "false",
    "FSDP_ACTIVATION_CHECKPOINTING": "false",
}
_DEEPSPEED = {  # the same of DeepSpeed
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "none",
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "none",
}


@dataclass(frozen=True)
class World:
    """This process's place among `size` of them, and the device that it computes on.

    `mesh` is there where weights are sharded (FSDP2): each process then holds a part of every weight, of its gradient
    and of the optimiser's state, and has a layer's weights whole only while it computes with them.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = PROCESSOR
    mesh: DeviceMesh | None = None
    zero: int = 0
    """DeepSpeed's stage where it moves the weights: 1 shares the moments out, 2 the gradients too."""

    @property
    def shares(self) -> bool:
        """Whether each process holds a part of what others need, so that all must take the same way through a step."""
        return self.mesh is not None or self.zero > 0

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def add_up(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make every process's gradients the sum over all of them; those of sharded weights are sums already."""
        if self.size == 1 or self.mesh is not None:
            return
        for parameter in parameters:
            if parameter.grad is None:  # no sequence of this process asked for it
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(sums)
        return sums.tolist()

    def any(self, flag: bool) -> bool:
        """Whether one of the processes says so; all must ask."""
        return self.total([float(flag)])[0] > 0

    def shard(self, module: nn.Module, method: str = "forward") -> None:
        """Where this run shards: cut the module's weights over the processes, and put the parts on the device.

        They come together while the module's `method` runs, and in its backward pass.
        """
        if self.mesh is None:
            return
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        # Resharded after every forward, the outermost module too: after one without a backward pass (held-out numbers)
        # it would compute on with the weights of that time.
        sharded = fully_shard(module, mesh=self.mesh, reshard_after_forward=True)
        # Sums, not means: each loss is divided by all sequences of a step.
        sharded.set_gradient_divide_factor(1.0)
        sharded.set_force_sum_reduction_for_comms(True)
        if method != "forward":
            register_fsdp_forward_method(module, method)

    def whole(self, tensor: Tensor) -> Tensor:
        """A tensor of which each process may hold a part, whole and on the processor; all must ask."""
        if self.mesh is not None:
            from torch.distributed.tensor import DTensor

            if isinstance(tensor, DTensor):
                tensor = tensor.full_tensor()
        return tensor.detach().cpu()

    def local(self, tensor: Tensor) -> Tensor:
        """This process's part, sharing its memory."""
        if self.mesh is None:
            return tensor
        from torch.distributed.tensor import DTensor

        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    def placed(self, whole: Tensor, like: Tensor) -> Tensor:
        """A whole tensor that every process has, held as `like` is."""
        if self.mesh is None:
            return whole.to(like.device)
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(like, DTensor)
        return distribute_tensor(whole.to(self.device), like.device_mesh, like.placements, src_data_rank=None)

    def wait(self) -> None:
        """Until all others are here too."""
        if self.size > 1:
            torch.distributed.barrier()

    def leave(self) -> None:
        """End this process, as one that succeeded, when all others are here too; nothing where it is alone.

        Not by returning to the interpreter: gloo's threads live on while anything refers to their group (a sharded weight
        does), and one that lets go of a Python object after the interpreter is gone aborts the process, and by that the
        launcher's whole run.
        """
        if self.size == 1:
            return
        self.wait()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def join(processor: bool = False) -> World:
    """The world that the launcher made, or this process alone; on a GPU where there is one, unless `processor` says that
    what is computed is made for the processor."""
    processor = (
        processor
        or not torch.cuda.is_available()
        or os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    )
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World(device=torch.device("cpu" if processor else "cuda"))
    from accelerate import PartialState

    sharded = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
    if sharded:
        _require(_FSDP)
    zero = 0
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "").lower() == "true":
        _require(_DEEPSPEED)
        zero = int(os.environ.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "0"))
        if zero not in (1, 2):
            raise DiffcoderError(
                "bad_launch", f"ZeRO's stage {zero} is not built: use 1 or 2, or training/fsdp2.yaml."
            )
    state = PartialState(cpu=processor)
    mesh = None
    if sharded:
        mesh = torch.distributed.init_device_mesh(state.device.type, (state.num_processes,))
    return World(state.process_index, state.num_processes, state.device, mesh, zero)


def _require(settings: dict[str, str]) -> None:
    for name, value in settings.items():
        if os.environ.get(name, value).lower() != value:
            raise DiffcoderError(
                "bad_launch",
                f"{name.lower()} is {os.environ[name]} and must be {value} here: start from a configuration file of"
                " docs/training.md.",
            )
