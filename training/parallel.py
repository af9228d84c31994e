"""Several processes on one run: each computes its share of a step's sequences, gradients are added up.

Started by `accelerate launch` or `torchrun`, which say in the environment how many there are; accelerate joins them
over gloo. A step's sequences are the same however many processes share them, so a run may go on
with another number of them than it began with. Knows nothing of what is learnt.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class World:
    """This process's place among `size` of them."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def add_up(self, parameters: Iterable[nn.Parameter]) -> None:
        """Make every process's gradients the sum over all of them."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is None:  # no sequence of this process asked for it
                parameter.grad = torch.zeros_like(parameter)
            torch.distributed.all_reduce(parameter.grad)

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over all processes."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        torch.distributed.all_reduce(sums)
        return sums.tolist()

    def any(self, flag: bool) -> bool:
        """Whether one of the processes says so; all must ask."""
        return self.total([float(flag)])[0] > 0


def join() -> World:
    """The world that the launcher made, or this process alone."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    from accelerate import PartialState

    state = PartialState(cpu=True)  # all of training computes there
    return World(state.process_index, state.num_processes)
