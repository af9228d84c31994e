"""A filling as text while its tokens come: where it ends, and how its lines do. Knows tokens' bytes and no model."""

from __future__ import annotations

from collections.abc import Sequence

from model import sampler
from model.sampler import Run
from model.schema import Draft, StopReason
from model.stops import Stops


class Filling:
    """The filling as text while its tokens come, and where it ends."""

    def __init__(self, spelled: Sequence[bytes], typed: bytes, stops: Stops, newline: str = "\n"):
        """`spelled`: the bytes of each token; `typed`: those before the gap that the model writes again."""
        self._bytes, self._typed, self._stops = spelled, typed, stops
        self._newline = newline
        self._raw, self._count = b"", 0
        self._end: int | None = None

    def until(self, tokens: list[int]) -> StopReason | None:
        for token in tokens[self._count :]:
            self._raw += self._bytes[token]
        self._count = len(tokens)
        return self._stops.look(self._decode(self._raw))

    def open_ends(self, run: Run) -> list[int]:
        """Numbers of tokens after which the text may end, when no rule of the gap's own has said where."""
        if run.stop_reason not in ("end_token", "budget", "dedent", "repetition"):
            return []
        size, ends, raw = len(self._cut(run)), [0] if not self._typed else [], b""
        for count, token in enumerate(run.tokens, 1):
            raw += self._bytes[token]
            if len(raw) < len(self._typed) or _is_partial(raw):
                continue
            rest = self._decode(self._raw)[len(self._decode(raw)) :]
            if len(self._decode(raw)) <= size and self._stops.may_end_before(rest):
                ends.append(count)
        return ends

    def end_at(self, tokens: int) -> None:
        self._end = tokens

    def result(self, run: Run) -> tuple[str, int]:
        """The final text, and how many of the run's tokens it took."""
        if self._end is not None:
            raw = b"".join(self._bytes[token] for token in run.tokens[: self._end])
            return self._ended(self._decode(raw)), self._end
        text = self._cut(run)
        size, kept, spelled = len(self._typed) + len(text.encode()), 0, 0
        while kept < len(run.tokens) and spelled < size:
            spelled += len(self._bytes[run.tokens[kept]])
            kept += 1
        return self._ended(text), kept

    def _cut(self, run: Run) -> str:
        text = self._decode(self._raw)
        ruled = run.stop_reason not in ("end_token", "budget", "deadline", "cancelled")
        return text[: self._stops.cut] if ruled else text

    def draft(self, draft: sampler.Draft) -> Draft:
        raw = b"".join(self._bytes[token] for token in draft.tokens)
        block = tuple(
            None if token is None else self._ended(self._bytes[token].decode("utf-8", errors="replace"))
            for token in draft.block
        )
        return Draft(text=self._ended(self._decode(raw)), block=block, forwards=draft.forwards)

    def _ended(self, text: str) -> str:
        """The text with its lines ended as the file's are."""
        return text.replace("\n", self._newline)

    def _decode(self, raw: bytes) -> str:
        return raw[len(self._typed) :].decode("utf-8", errors="ignore")


def _is_partial(raw: bytes) -> bool:
    """Whether the bytes end within a character."""
    return len(raw) != len(raw.decode("utf-8", errors="ignore").encode())
