"""From a step's losses to the next weights: AdamW over gradients added up over all processes.

`Optimiser` moves weights that each process holds whole, or its part of (`parallel.World`); `Zero` leaves gradients'
sums and moments to DeepSpeed, which shares them out (ZeRO, stage 1 or 2). Both give the same steps and the same state.
Knows nothing of what is learnt, nor of files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import torch
from torch import Tensor, nn

from model.schema import DiffcoderError
from training.parallel import World
from training.recipe import Recipe

MOMENTS = ("exp_avg", "exp_avg_sq")


class Optimiser:
    """AdamW without weight decay."""

    def __init__(self, recipe: Recipe, parameters: dict[str, nn.Parameter], world: World):
        self.parameters, self.world, self.clip = parameters, world, recipe.clip
        self.adam = torch.optim.AdamW(
            list(parameters.values()), lr=recipe.lr, betas=recipe.betas, weight_decay=0.0, fused=True
        )

    def backward(self, loss: Tensor, last: bool) -> None:
        """Add a sequence's gradients to the step's; `last` says that this process has no further one in it."""
        loss.backward()

    def step(self, rate: float) -> float:
        """Move the weights; the norm of the gradient. If that is not a number, they are not to be kept."""
        self.world.add_up(self.parameters.values())
        norm = self.world.whole(torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.clip))
        self._set(rate)
        if math.isfinite(norm):
            self.adam.step()
            self.adam.zero_grad(set_to_none=True)
        return float(norm)

    def _set(self, rate: float) -> None:
        for group in self.adam.param_groups:
            group["lr"] = rate

    def state(self) -> dict[str, Tensor]:
        """By `KEY.NAME`, held as the weights are; all processes must ask."""
        return {
            f"{key}.{name}": tensor
            for name, value in self.parameters.items()
            for key, tensor in self.adam.state.get(value, {}).items()
        }

    def restore(self, held: Collection[str], read: Callable[[str], Tensor]) -> None:
        """Take up a state, of which `read` gives whole tensors; the weights are there already."""
        for name, value in self.parameters.items():
            if f"step.{name}" in held:
                self.adam.state[value] = {"step": read(f"step.{name}").to(self.world.device)} | {
                    key: self.world.placed(read(f"{key}.{name}"), value.data) for key in MOMENTS
                }


class Zero(Optimiser):
    """The same through DeepSpeed's engine."""

    def __init__(self, recipe: Recipe, parameters: dict[str, nn.Parameter], world: World):
        super().__init__(recipe, parameters, world)
        try:
            import deepspeed
        except ImportError:
            raise DiffcoderError(
                "missing_library", "ZeRO needs DeepSpeed: install it, or launch with training/fsdp2.yaml."
            ) from None
        from deepspeed import utils

        self._utils = utils
        self.engine, *_ = deepspeed.initialize(
            model=nn.ParameterList(parameters.values()),
            optimizer=self.adam,
            config={
                "train_micro_batch_size_per_gpu": 1,
                "gradient_accumulation_steps": recipe.sequences // world.size,
                "gradient_clipping": recipe.clip,
                "zero_optimization": {"stage": world.zero},
                "zero_allow_untested_optimizer": True,  # torch's AdamW, fused
                "zero_force_ds_cpu_optimizer": False,
            },
        )
        # DeepSpeed makes the moments in a first step: one that moves nothing, and does not count.
        nothing = [value.sum() * 0.0 for value in parameters.values()]
        self.backward(torch.stack(nothing).sum(), last=True)
        self.step(0.0)
        for state in self.adam.state.values():
            state["step"].zero_()

    def backward(self, loss: Tensor, last: bool) -> None:
        self.engine.set_gradient_accumulation_boundary(last)
        # DeepSpeed gives the mean over processes; each loss was divided by all sequences of a step.
        self.engine.backward(loss * self.world.size, scale_wrt_gas=False)

    def step(self, rate: float) -> float:
        self._set(rate)
        self.engine.step()
        return float(self.engine.get_global_grad_norm())

    def state(self) -> dict[str, Tensor]:
        (held,) = self.adam.state.values()  # this process's part of all weights, in a row
        found = {f"step.{name}": held["step"].clone() for name in self.parameters}
        for name, value in self.parameters.items():
            for key in MOMENTS:
                found[f"{key}.{name}"] = self._utils.safe_get_full_optimizer_state(value, key)
        return found

    def restore(self, held: Collection[str], read: Callable[[str], Tensor]) -> None:
        (part,) = self.adam.state.values()
        for name, value in self.parameters.items():
            self._utils.safe_set_full_fp32_param(value, value.data)
            if f"step.{name}" in held:
                part["step"].copy_(read(f"step.{name}"))
                for key in MOMENTS:
                    whole = read(f"{key}.{name}").to(value.device)
                    self._utils.safe_set_full_optimizer_state(value, whole, key)
