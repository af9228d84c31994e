"""Several answers at once: generators in threads of their own share each other's forwards.

A forward of one row reads all weights of the model; one of eight rows reads them once too. So a member's call
waits until every member has called, and all are computed as one. The decoder's products are batch invariant and
attention runs member by member, so each gets what it would have got alone, to the last bit. Knows no benchmark.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.decoder import Attention, Decoder, Gate, Linear


class Stopped(Exception):
    """The batch was told to stop: its members' calls end with this."""


@dataclass
class Call:
    """What one member waits for: a product with `linear`, or a forward of the decoder where that is None."""

    linear: Linear | None
    arguments: tuple[Any, ...]
    answer: Tensor | None = None
    error: BaseException | None = None


class Batch:
    """The meeting point. Threads `join` before their first call and `leave` after their last."""

    def __init__(self, decoder: Decoder):
        self._decoder = decoder
        self._turn = threading.Condition()
        self._members = 0
        self._calls: list[Call] = []
        self._stopped = False

    def join(self) -> None:
        with self._turn:
            self._members += 1

    def leave(self) -> None:
        with self._turn:
            self._members -= 1
            self._serve()

    def stop(self) -> None:
        """End every member at its next call."""
        with self._turn:
            self._stopped = True
            self._turn.notify_all()

    def ask(self, call: Call) -> Tensor:
        with self._turn:
            self._calls.append(call)
            self._serve()
            while call.answer is None and call.error is None:
                if self._stopped:
                    raise Stopped
                self._turn.wait()
        if call.error is not None:
            raise call.error
        assert call.answer is not None
        return call.answer

    def _serve(self) -> None:
        """Compute what waits, once everybody waits. Products first: those who ask for them have a forward behind them,
        and meet the others again at the next one."""
        if self._stopped or not self._calls or len(self._calls) < self._members:
            return
        linear = next((call.linear for call in self._calls if call.linear is not None), None)
        served = [call for call in self._calls if call.linear is linear]
        self._calls = [call for call in self._calls if call.linear is not linear]
        try:
            with torch.inference_mode():
                answers = self._forward(served) if linear is None else multiply(linear, served)
            for call, answer in zip(served, answers, strict=True):
                call.answer = answer
        except Exception as error:  # each member reports it as its own
            for call in served:
                call.error = error
        self._turn.notify_all()

    def _forward(self, calls: Sequence[Call]) -> list[Tensor]:
        if len(calls) == 1:
            return [self._decoder.forward(*calls[0].arguments)]
        sizes, gates, start = [len(call.arguments[0]) for call in calls], [], 0
        for call, size in zip(calls, sizes, strict=True):
            gates += [(a, slice(start + rows.start, start + rows.stop)) for a, rows in call.arguments[3]]
            start += size
        hidden_ND = self._decoder.forward(
            torch.cat([call.arguments[0] for call in calls]),
            torch.cat([call.arguments[1] for call in calls]),
            Apart([(call.arguments[2], size) for call, size in zip(calls, sizes, strict=True)]),
            gates,
        )
        tails = [
            size if call.arguments[4] is None else call.arguments[4]
            for call, size in zip(calls, sizes, strict=True)
        ]
        parts = hidden_ND.split(sizes)
        return [part[len(part) - tail :] for part, tail in zip(parts, tails, strict=True)]


def multiply(linear: Linear, calls: Sequence[Call]) -> list[Tensor]:
    rows = [call.arguments[0] for call in calls]
    return list(linear(torch.cat(rows)).split([len(row) for row in rows]))


class Apart:
    """Attention of a forward whose rows belong to several: each part looks into its own cache."""

    def __init__(self, parts: Sequence[tuple[Attention, int]]):
        self._attentions = [attention for attention, _ in parts]
        self._sizes = [size for _, size in parts]

    def attend(self, layer: int, q_NHE: Tensor, k_NKE: Tensor, v_NKE: Tensor) -> Tensor:
        rows = zip(*(x.split(self._sizes) for x in (q_NHE, k_NKE, v_NKE)), strict=True)
        return torch.cat([a.attend(layer, *mine) for a, mine in zip(self._attentions, rows, strict=True)])


class SharedDecoder(Decoder):
    """A decoder whose forwards and output head meet those of the batch's other members."""

    def __init__(self, decoder: Decoder, batch: Batch):
        super().__init__(
            decoder.config, decoder.layers, decoder.embedding, decoder.norm, SharedLinear(decoder.head, batch)
        )
        self._batch = batch

    def forward(
        self,
        x_ND: Tensor,
        positions_N: Tensor,
        attention: Attention,
        gates: Sequence[Gate] = (),
        tail: int | None = None,
    ) -> Tensor:
        return self._batch.ask(Call(None, (x_ND, positions_N, attention, gates, tail)))


class SharedLinear:
    """A linear whose products meet those of the batch's other members."""

    def __init__(self, linear: Linear, batch: Batch):
        self.width = linear.width
        self._linear, self._batch = linear, batch

    def __call__(self, x_NI: Tensor, /) -> Tensor:
        return self._batch.ask(Call(self._linear, (x_NI,)))
