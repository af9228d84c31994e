"""Where drafted tokens come from before the model verifies them, and how many are worth a forward. No torch.

Two kinds of drafter, one verifier: text that already exists (`PromptLookup`, and `Revision` for an edit), and the
masked places of the last forward, whose probabilities the sampler hands to `plan`. How far to draft is a matter of
cost: `CostCurve` holds what a forward of n rows takes on this machine.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Protocol

# Milliseconds of a forward by its rows, one clean and the others masked: `default` with its adapter, one thread of an
# AMD EPYC (Zen 3), processor time, 2026-11-25. Only its shape counts: for those who plan the same drafts on any machine.
REFERENCE_COST = {1: 78.0, 4: 91.0, 8: 116.0, 16: 195.0, 32: 312.0}


class CostCurve:
    """Milliseconds of a forward: by its number of rows, measured at a few sizes and interpolated between them; by how
    many keys its rows attend to (`ms_per_pair`, a row and a key), which grows with both; and what an adapter adds to any
    number of masked rows (`ms_masked`). `ms_per_draft`: of drafting one token from its masked row, after a forward.
    """

    def __init__(
        self,
        ms: Mapping[int, float],
        ms_per_pair: float = 0.0,
        ms_masked: float = 0.0,
        ms_per_draft: float = 0.0,
    ):
        self.ms, self.ms_per_pair = dict(ms), ms_per_pair
        self.ms_masked, self.ms_per_draft = ms_masked, ms_per_draft
        self._sizes = sorted(ms)

    def __call__(self, rows: int, keys: int = 0, masked: bool = False) -> float:
        """For `rows` rows in all behind `keys` keys in the cache; `masked`: whether some of them are masked places."""
        return self._by_rows(rows) + self.ms_per_pair * rows * keys + (self.ms_masked if masked else 0.0)

    @cache  # noqa: B019 - an engine has one curve and some hundred row counts
    def _by_rows(self, rows: int) -> float:
        sizes = self._sizes
        at = bisect_left(sizes, rows)
        if at == 0:
            return self.ms[sizes[0]]
        low, high = sizes[-2:] if at == len(sizes) else (sizes[at - 1], sizes[at])
        slope = (self.ms[high] - self.ms[low]) / (high - low)
        return self.ms[low] + slope * (rows - low)


class TextDrafter(Protocol):
    """Drafts from text that exists."""

    def extend(self, tokens: Sequence[int]) -> None:
        """Take note of tokens that were committed."""

    def propose(self, longest: int) -> list[int]:
        """Up to `longest` tokens that may come next; empty where nothing is known."""


class PromptLookup:
    """Proposes what followed the last occurrence of the newest `order` tokens in `text` and in what was written."""

    def __init__(self, text: Sequence[int], order: int = 3):
        self.order = order
        self._text = list(text)
        self._index: dict[tuple[int, ...], int] = {}
        for end in range(order, len(self._text)):
            self._index[tuple(self._text[end - order : end])] = end
        self._seen = len(self._text)

    def extend(self, tokens: Sequence[int]) -> None:
        """Take note of tokens that were committed."""
        self._text.extend(tokens)
        # An n-gram is indexed once its continuation is known: the newest one must not find itself.
        for end in range(max(self._seen, self.order), len(self._text)):
            self._index[tuple(self._text[end - self.order : end])] = end
        self._seen = len(self._text)

    def propose(self, longest: int) -> list[int]:
        """Up to `longest` tokens that may come next; empty where nothing matches."""
        at = self._index.get(tuple(self._text[len(self._text) - self.order :]))
        if at is None:
            return []
        period = len(self._text) - at  # a text that repeats itself is taken to go on doing so
        return [self._text[at + n % period] for n in range(longest)]


class Revision:
    """Proposes the rest of an old text while a new version of it is written, with the replacements seen so far.

    It follows the new text along the old one. Where they part, they meet again at the nearest place of the old text that
    has the newest token (two tokens, further away). What stood between is remembered as replaced by what was written,
    and proposed so wherever the same old tokens come again, until they are left as they were: a name that is changed
    throughout is a surprise once. While the texts are apart, `PromptLookup` over the prompt helps out.
    """

    REACH, NEAR = (
        32,
        2,
    )  # old tokens to look through for the place where the texts meet; where one token will do
    LONGEST_OLD, LONGEST_NEW = 4, 8  # tokens of a replacement

    def __init__(self, old: Sequence[int], prompt: Sequence[int]):
        self._old = tuple(old)
        self._at = 0  # of the old text: what comes next, or came next when the texts parted
        self._apart: list[int] = []  # written since
        self._replaced: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._lookup = PromptLookup(prompt, order=2)

    def extend(self, tokens: Sequence[int]) -> None:
        """Take note of tokens that were committed."""
        self._lookup.extend(tokens)
        for token in tokens:
            if not self._apart and self._old[self._at : self._at + 1] == (token,):
                self._at += 1
                self._forget()
            else:
                self._apart.append(token)
                self._meet()

    def propose(self, longest: int) -> list[int]:
        """Up to `longest` tokens that may come next; empty where nothing is known."""
        old, at, found = self._old, self._at, []
        if self._apart:
            written = tuple(self._apart)
            for key in self._keys(at):
                new = self._replaced[key]
                if new[: len(written)] == written:
                    found, at = list(new[len(written) :]), at + len(key)
                    break
            else:
                if proposed := self._lookup.propose(longest):
                    return proposed
                at += len(written)  # as if each token had been replaced by one
        elif (last := old[max(0, at - 1) : at]) in self._replaced and self._replaced[last][:1] == last:
            found = list(self._replaced[last][1:])  # what was put in behind that token before
        while len(found) < longest and at < len(old):
            key = next(self._keys(at), old[at : at + 1])
            found += self._replaced.get(key, key)
            at += len(key)
        return found[:longest]

    def _keys(self, at: int) -> Iterator[tuple[int, ...]]:
        """The old tokens at a place that have been replaced before, the longest first."""
        for length in range(self.LONGEST_OLD, 0, -1):
            if (key := self._old[at : at + length]) in self._replaced:
                yield key

    def _meet(self) -> None:
        old, apart, start = self._old, self._apart, self._at
        for at in range(start, min(len(old), start + self.REACH)):
            if old[at] != apart[-1]:
                continue
            near = at - start <= self.NEAR
            if near or (len(apart) > 1 and at > start and old[at - 1] == apart[-2]):
                shared = 1 if near else 2
                self._remember(start, at + 1 - shared, tuple(apart[: len(apart) - shared]))
                self._at, self._apart = at + 1, []
                return

    def _remember(self, start: int, end: int, new: tuple[int, ...]) -> None:
        if start == end and start:  # put in: behind the token before
            start, new = start - 1, (self._old[start - 1], *new)
        if 0 < end - start <= self.LONGEST_OLD and 0 < len(new) <= self.LONGEST_NEW:
            self._replaced[self._old[start:end]] = new

    def _forget(self) -> None:
        """What ends before the newest token was left as it was."""
        end = self._at - 1
        for length in range(1, min(end, self.LONGEST_OLD) + 1):
            self._replaced.pop(self._old[end - length : end], None)


FADING = 200.0  # forwards
OFFER = 0.85


class Belief:
    """Running estimates of how likely a drafter's tokens are accepted: of its first one, of its second given the
    first, and so on; what lies deeper than `depths` is taken to be like the last of them."""

    def __init__(self, rates: Sequence[float], weight: float = 12.0):
        self._first, self._rates, self._weight = tuple(rates), list(rates), weight

    def update(self, accepted: int, drafted: int) -> None:
        """Learn from a forward that accepted the first `accepted` of `drafted` tokens."""
        for depth in range(min(accepted + 1, drafted)):
            at = min(depth, len(self._rates) - 1)
            self._rates[at] += (float(depth < accepted) - self._rates[at]) / self._weight

    def fade(self) -> None:
        """A forward without this drafter: the estimates drift back to the first ones, so that it is tried again."""
        for at, rate in enumerate(self._first):
            self._rates[at] += (rate - self._rates[at]) / FADING

    def chances(self, count: int) -> list[float]:
        """The probabilities of the next `count` tokens, each given those before it."""
        return [self._rates[min(depth, len(self._rates) - 1)] for depth in range(count)]


class Beliefs:
    """What an engine has learnt of its drafters and of its own pace; it outlives a request."""

    def __init__(self, cost: CostCurve):
        self.masks = Belief([0.6, 0.5, 0.45, 0.4])
        self.lookup = Belief([0.5, 0.6, 0.7, 0.8])
        self.pace = 1.2 / cost(1)
        """Tokens a millisecond, of late: what a millisecond is worth. A text that repeats itself is written so fast that
        masks are not worth their time."""
        self.offer = OFFER
        """What masks gain the forward after them, for each token that is expected of them: less than a token, since
        drafts take rows to verify, and further masks behind each of their outcomes."""

    def keep_pace(self, tokens: int, ms: float) -> None:
        self.pace += (tokens / ms - self.pace) / 20.0

    def keep_offer(self, masks: int, gain: float) -> None:
        """Learn from a plan (`Plan.gain`) what the `masks` masks were worth that drafted for it; 0: none did."""
        if masks:
            self.offer += (gain - self.offer * worth(self.masks.chances(masks))) / 50.0
        else:
            self.offer += (OFFER - self.offer) / FADING  # not tried: believed in again


def agreed(
    found: Sequence[int], believed: Sequence[float], drafted: Sequence[int], chances: Sequence[float]
) -> list[float]:
    """The chances of what was found, as it is believed in; where masks drafted the same, the higher of the two. A long
    piece of old text is then not given up for the few tokens that masks are surer of."""
    if list(found[: len(drafted)]) != list(drafted):
        return list(believed)
    return [*map(max, believed, chances), *believed[len(drafted) :]]


def worth(chances: Sequence[float]) -> float:
    """How many of the tokens are expected to be accepted: the sum of the running products."""
    total, sure = 0.0, 1.0
    for chance in chances:
        sure *= chance
        total += sure
    return total


@dataclass(frozen=True)
class Plan:
    """What the next forward carries: drafted tokens to verify, and a block of `masks` masked places behind the first
    i drafts for every i of `after` (ascending)."""

    drafts: tuple[int, ...]
    after: tuple[int, ...]
    masks: int
    gain: float = 0.0
    """Tokens that the drafts bring beyond the best forward without any, its milliseconds counted."""

    @property
    def rows(self) -> int:
        return len(self.drafts) + len(self.after) * self.masks


MOST_BLOCKS = 3  # in one forward


def plan(
    drafts: Sequence[int],
    chances: Sequence[float],
    cost: CostCurve,
    beliefs: Beliefs,
    block: int,
    rows: int,
    keys: int,
) -> Plan:
    """The forward with the highest expected gain: tokens it commits, and tokens that its masks will have drafted for the
    one after it, less what its milliseconds are worth at the engine's pace.

    `chances[i]`: probability that draft i is accepted given that those before it are. A masked block behind i
    drafts is of use if exactly i are accepted, so blocks go where that is likeliest. `block`: masks of a block at
    most. `rows`: clean rows that run in any case, `keys`: what the cache holds.
    """
    best, best_gain = Plan((), (), 0), 1.0 - beliefs.pace * cost(rows, keys)
    without_drafts = best_gain
    believed = beliefs.masks.chances(block)
    ends = [1.0]  # probability that exactly i of the first n drafts are accepted, i = 0..n
    expected = 1.0
    for n in range(len(drafts) + 1):
        if n:
            sure = ends[-1] * chances[n - 1]
            ends[-1:] = [ends[-1] - sure, sure]
            expected += sure
        likeliest = sorted(range(n + 1), key=lambda i: -ends[i])[:MOST_BLOCKS]
        for masks in range(block + 1):
            future = beliefs.offer * worth(believed[:masks])
            for blocks in range(1, len(likeliest) + 1) if masks else (0,):
                useful = sum(ends[i] for i in likeliest[:blocks])
                ms = cost(rows + n + blocks * masks, keys, masks > 0) + useful * masks * cost.ms_per_draft
                gain = expected + useful * future - beliefs.pace * ms
                if gain > best_gain:
                    after = tuple(sorted(likeliest[:blocks]))
                    best, best_gain = Plan(tuple(drafts[:n]), after, masks), gain
        if not n:
            without_drafts = best_gain
    return replace(best, gain=best_gain - without_drafts)
