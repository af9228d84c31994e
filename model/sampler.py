"""Token ids in, token ids out: the any-order block denoiser, and its verified twin.

`denoise` fills masked blocks by an unmask rule. `verify` returns the frozen base's own autoregressive tokens, drafting
several at a time from masks or from text that exists. Both fuse what others do in two forwards: rows that commit the
last tokens to the cache stand in the same forward as the next masked block.

Knows nothing of text: where to stop beyond the end tokens is asked of `until`, what the first tokens must spell of
`constraint`. Shape suffixes as in decoder.py; B places of a block, S drafting vocabulary.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from model import masks
from model.decoder import Adapter, Chain, Decoder, KVCache, Linear
from model.drafters import Beliefs, CostCurve, TextDrafter, agreed, plan, worth
from model.schema import StopReason
from model.unmask import UnmaskRule

UNLIKELY = (
    0.15  # chance of all drafts so far, below which a further one is not worth its row of the output head
)
LONGEST_LOOKUP = 24  # tokens that are proposed at once from text that exists
PREFILL_ROWS = (
    256  # of one forward: enough to keep the products busy, short enough to look at `cancelled` in between
)


class Constraint(Protocol):
    """What the text must begin with. `allowed` lists the ids that may come next, None: any."""

    def allowed(self) -> Tensor | None: ...
    def advance(self, token: int) -> None: ...


class Free:
    """No constraint."""

    def allowed(self) -> Tensor | None:
        return None

    def advance(self, token: int) -> None:
        pass


@dataclass(frozen=True)
class Block:
    """Places to denoise (None: masked) behind the first `after` clean rows of a forward, which they see."""

    after: int
    places: Sequence[int | None]


@dataclass(frozen=True)
class Network:
    """A decoder with what the sampler must know of its family.

    `block`: places of a noisy block. `mask_id`: never produced, and the embedding of a masked place unless the
    adapter brings its own. With an `adapter` (gated) the clean rows are the frozen base's and speak AR, and a noisy row
    predicts the token *after* its place, as the base's rows do: the clean row before the block says what
    stands at its first place. A merged model's noisy row predicts its own place, and its clean rows see their whole
    block where `block_causal`; where it `verifies`, they are causal and speak AR too. `aligned`: blocks lie at absolute
    multiples of `block`. `draft_vocab_S`: ids of the rows of `draft_head`.
    """

    decoder: Decoder
    block: int = 1
    mask_id: int | None = None
    adapter: Adapter | None = None
    draft_head: Linear | None = None
    draft_vocab_S: Tensor | None = None
    block_causal: bool = False
    aligned: bool = False
    verifies: bool = False

    @property
    def diffuses(self) -> bool:
        return self.mask_id is not None

    @property
    def shift(self) -> int:
        """How many places behind its own a noisy row predicts."""
        return int(self.adapter is not None)

    @property
    def prefill_rows(self) -> int:
        """Rows of a forward that only reads: tokens that see their whole block are read with it."""
        return PREFILL_ROWS - PREFILL_ROWS % self.block if self.aligned else PREFILL_ROWS

    @property
    def speaks_ar(self) -> bool:
        """Whether clean rows are those of an autoregressive model."""
        return self.adapter is not None or not self.diffuses or self.verifies

    @property
    def most_masks(self) -> int:
        """Tokens that a masked block can draft behind the one that the clean row before it settles."""
        return self.block - 1 + self.shift if self.diffuses else 0

    @torch.inference_mode()
    def forward(
        self, cache: KVCache, clean: Sequence[int], blocks: Sequence[Block], tail: int
    ) -> tuple[Tensor, Tensor]:
        """One forward of `clean` tokens, then of noisy blocks, behind what the cache holds.

        Returns the scores of the last `tail` clean rows (tail, V) and the hidden states of the noisy rows, block by
        block (B, D), for `noisy_logits`. Nothing is kept in the cache: the caller says how much of it counts.
        """
        n, past = len(clean), cache.length
        noisy = [token for block in blocks for token in block.places]
        stand_in = self.mask_id if self.adapter is None and self.mask_id is not None else 0
        ids = [*clean, *(stand_in if token is None else token for token in noisy)]
        positions = [
            *range(n),
            *(block.after + place for block in blocks for place in range(len(block.places))),
        ]
        x_ND = self.decoder.embed(torch.tensor(ids))
        if self.adapter is not None:
            masked = [n + place for place, token in enumerate(noisy) if token is None]
            x_ND[masked] = self.adapter.mask_embedding
        cache.see(self._mask(n, blocks, past))
        gates = [(self.adapter, slice(n, len(ids)))] if self.adapter is not None and noisy else []
        hidden_ND = self.decoder.forward(
            x_ND, torch.tensor(positions) + past, cache, gates, tail + len(noisy)
        )
        clean_TV = self.decoder.logits(hidden_ND[:tail]) if tail else hidden_ND.new_zeros(0, 0)
        if self.mask_id is not None and tail:
            clean_TV[:, self.mask_id] = -torch.inf
        return clean_TV, hidden_ND[tail:]

    def _mask(self, clean: int, blocks: Sequence[Block], past: int) -> Tensor | None:
        if not clean or (clean == 1 and not blocks):
            return None  # one row, or one block that sees everything
        mask = masks.clean_then_noisy(clean, [(block.after, len(block.places)) for block in blocks], past)
        if self.block_causal:
            mask[:clean, : past + clean] = masks.block_causal(clean, past, self.block)
        return mask

    @torch.inference_mode()
    def noisy_logits(self, hidden_BD: Tensor, own_B: Sequence[int] = ()) -> Tensor:
        """Scores (B, S) of noisy rows, told the tokens at their own places where the adapter has a chain."""
        assert self.mask_id is not None  # only a model that diffuses has noisy rows
        if self.chain is not None:
            hidden_BD = self.chain(hidden_BD, self.decoder.embed(torch.tensor(own_B)))
        scores_BS = (self.draft_head or self.decoder.logits)(hidden_BD)
        scores_BS[:, self._never] = -torch.inf
        return scores_BS

    @functools.cached_property
    def _drafts(self) -> Sequence[int]:
        """The id of each column of the noisy rows' scores."""
        return range(self.decoder.config.vocab) if self.draft_vocab_S is None else self.draft_vocab_S.tolist()

    @functools.cached_property
    def _never(self) -> list[int]:
        """The column that is the mask's own, if there is one."""
        return [self._drafts.index(self.mask_id)] if self.mask_id in self._drafts else []

    @property
    def chain(self) -> Chain | None:
        return None if self.adapter is None else self.adapter.chain

    def draft(
        self, hidden_BD: Tensor, token: int, unlikely: float = UNLIKELY
    ) -> tuple[list[int], list[float]]:
        """Likeliest tokens for the places behind `token`, which stands at the first row's own place, and the probability
        of each given those before it. As many as there are rows, or fewer once the chance of all is below `unlikely`.
        """
        if self.chain is None:
            best_B = self.noisy_logits(hidden_BD).log_softmax(-1).max(-1)
            return self.drafted(best_B.indices.tolist()), best_B.values.exp().tolist()
        tokens: list[int] = []
        chances: list[float] = []
        for row_1D in hidden_BD.split(1):
            best = self.noisy_logits(row_1D, [token])[0].log_softmax(-1).max(-1)
            token = self.drafted([int(best.indices)])[0]
            tokens.append(token)
            chances.append(math.exp(best.values))
            if math.prod(chances) < unlikely:
                break
        return tokens, chances

    def drafted(self, index_B: Sequence[int]) -> list[int]:
        """Ids of the whole vocabulary for indices into the noisy rows' scores."""
        return [self._drafts[at] for at in index_B]


@dataclass(frozen=True)
class Draft:
    """What a forward left: the tokens so far, then the places of the block in work (None: still masked)."""

    tokens: tuple[int, ...]
    block: tuple[int | None, ...]
    forwards: int


@dataclass
class Run:
    """One request to the sampler, and what has come of it.

    `ends`: ids that end the text (not part of it). `until(tokens)` may end it for a reason of the text's own.
    `deadline`: on `time.monotonic`'s clock. `temperature` 0 is greedy; above, tokens are drawn with noise that depends
    on the seed and the token's place alone, so that drafts and batches change nothing. `forwards`: those that wrote.
    """

    max_tokens: int
    ends: frozenset[int]
    until: Callable[[list[int]], StopReason | None] = lambda tokens: None
    constraint: Constraint = field(default_factory=Free)
    temperature: float = 0.0
    seed: int = 0
    deadline: float | None = None
    cancelled: Callable[[], bool] = lambda: False
    on_draft: Callable[[Draft], None] | None = None
    tokens: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    forwards: int = 0
    stop_reason: StopReason | None = None

    def interrupted(self) -> bool:
        """Look at the outside, between two forwards."""
        if self.cancelled():
            self.stop_reason = "cancelled"
        elif self.deadline is not None and time.monotonic() >= self.deadline:
            self.stop_reason = "deadline"
        return self.stop_reason is not None

    def commit(self, token: int, probability: float) -> bool:
        """Append a token; False when the text ends here."""
        if token in self.ends:
            self.stop_reason = "end_token"
            return False
        self.tokens.append(token)
        self.probabilities.append(probability)
        self.constraint.advance(token)
        self.stop_reason = self.until(self.tokens)
        if self.stop_reason is None and len(self.tokens) >= self.max_tokens:
            self.stop_reason = "budget"
        return self.stop_reason is None

    def show(self, block: Sequence[int | None]) -> None:
        if self.on_draft is not None:
            self.on_draft(Draft(tuple(self.tokens), tuple(block), self.forwards))

    def pick(self, logits_V: Tensor, place: int, allowed: Tensor | None = None) -> tuple[int, float]:
        """The token for a place of the text and its probability at temperature 1."""
        if allowed is not None:
            keep = torch.full_like(logits_V, -torch.inf)
            keep[allowed] = logits_V[allowed]
            logits_V = keep
        return self.pick_rows(logits_V[None], place)[0]

    def pick_rows(self, logits_NV: Tensor, place: int) -> list[tuple[int, float]]:
        """`pick` for rows that hold consecutive places."""
        scores_NV = logits_NV
        if self.temperature > 0:
            scores_NV = torch.stack(
                [
                    row / self.temperature + _gumbel(len(row), self.seed, place + n)
                    for n, row in enumerate(logits_NV)
                ]
            )
        index_N = scores_NV.argmax(-1)
        probability_N = (logits_NV.gather(1, index_N[:, None])[:, 0] - logits_NV.logsumexp(-1)).exp()
        return list(zip(index_N.tolist(), probability_N.tolist(), strict=True))


def _gumbel(size: int, seed: int, place: int) -> Tensor:
    generator = torch.Generator().manual_seed((seed * 1_000_003 + place) & 0x7FFF_FFFF_FFFF_FFFF)
    return -(-torch.rand(size, generator=generator).clamp_min(1e-20).log()).log()


def prefill(network: Network, cache: KVCache, ids: Sequence[int], run: Run) -> int:
    """Write the keys and values of `ids` behind the cache's; returns how many were written before an interruption."""
    done = 0
    while done < len(ids) and not run.interrupted():
        chunk = ids[done : done + network.prefill_rows]
        network.forward(cache, chunk, (), 0)
        cache.keep(len(chunk))
        done += len(chunk)
    return done


def verify(
    network: Network,
    cache: KVCache,
    pending: Sequence[int],
    run: Run,
    cost: CostCurve,
    lookup: TextDrafter | None = None,
    beliefs: Beliefs | None = None,
) -> None:
    """Autoregressive decoding, several tokens a forward: the same tokens as one at a time, whatever is drafted.

    `pending`: the prompt's last tokens, not yet in the cache (at least one). A forward holds them, the drafted tokens
    behind them, and masked blocks. Row i of the clean ones says which token follows; drafts are accepted as long as
    they agree, and the first row that disagrees still gives its token. That token is the first place of the masked
    block behind the last accepted draft, if `plan` put one there: its rows draft the tokens after it. Where a row
    predicts its own place, the block has a row more for that first place.
    """
    assert pending, "the prompt has at least one token"
    assert network.speaks_ar, "a merged model has no autoregressive rows"
    clean = list(pending)
    offer: list[int] = []
    chances: list[float] = []
    asked = 0  # masks that drafted for the next forward, whether or not theirs are the drafts it takes
    beliefs = beliefs if beliefs is not None else Beliefs(cost)
    believed = beliefs.masks
    settled = 1 - network.shift  # rows of a block whose place the clean row before it settles
    while not run.interrupted():
        room = run.max_tokens - len(run.tokens)
        places = max(0, min(network.most_masks, room - 2))
        keys = cache.length
        step = plan(offer[: room - 1], chances, cost, beliefs, places, len(clean), keys)
        beliefs.keep_offer(asked, step.gain if believed is beliefs.masks else 0.0)
        size = step.masks + settled
        blocks = [Block(len(clean) + after, [None] * size) for after in step.after]
        clean_TV, noisy_BD = network.forward(cache, [*clean, *step.drafts], blocks, tail=1 + len(step.drafts))
        run.forwards += 1
        accepted, going = 0, True
        picks = run.pick_rows(clean_TV, len(run.tokens))
        for row, (token, probability) in enumerate(picks):
            allowed = run.constraint.allowed()
            if allowed is not None:
                token, probability = run.pick(clean_TV[row], len(run.tokens), allowed)
            going = run.commit(token, probability)
            if not going or row == len(step.drafts) or token != step.drafts[row]:
                break
            accepted += 1
        cache.keep(len(clean) + accepted)
        if not going:
            break
        for belief in (beliefs.masks, beliefs.lookup):
            if belief is believed and step.drafts:
                belief.update(accepted, len(step.drafts))
            else:
                belief.fade()
        ms = cost(len(clean) + step.rows, keys, step.masks > 0)
        if lookup is not None:
            lookup.extend(run.tokens[len(run.tokens) - accepted - 1 :])
        clean = [run.tokens[-1]]
        offer, chances, believed, asked = [], [], beliefs.masks, 0
        if accepted in step.after and step.masks:
            start = step.after.index(accepted) * size + settled
            offer, chances = network.draft(noisy_BD[start : start + step.masks], run.tokens[-1])
            asked = step.masks
            ms += len(offer) * cost.ms_per_draft
        beliefs.keep_pace(accepted + 1, ms)
        if lookup is not None and (found := lookup.propose(LONGEST_LOOKUP)):
            believed_found = agreed(found, beliefs.lookup.chances(len(found)), offer, chances)
            if worth(believed_found) > worth(chances):
                offer, chances, believed = found, believed_found, beliefs.lookup
        run.show(offer)


def denoise(
    network: Network,
    cache: KVCache,
    pending: Sequence[int],
    run: Run,
    rule: UnmaskRule,
) -> None:
    """Block diffusion: a block of masks, a forward, commit the places that the rule picks, until the text ends.

    `pending`: the prompt's tokens that are not in the cache. A merged model denoises one block after the other. With a
    gated adapter the block slides: what is revealed at its beginning becomes clean rows of the next forward, and masks
    come in at its end. The last clean row then settles the first place whatever the rule picks besides, so the frozen
    base speaks at every forward and the adapter decides what is revealed with it. Places that a constraint governs
    are committed left to right.
    """
    clean = list(pending)
    block: list[int | None] = []
    if network.aligned:
        whole = (cache.length + len(clean)) // network.block * network.block - cache.length
        clean, block = clean[:whole], [*clean[whole:]]
    emitted, chances = len(block), [1.0] * len(block)  # places at the block's beginning that are text already
    while run.stop_reason is None and not run.interrupted():
        size = min(network.block, emitted + run.max_tokens - len(run.tokens))
        if network.adapter is not None and run.constraint.allowed() is not None:
            size = 1  # the clean row before it knows the whole vocabulary, which a constraint may ask for
        chances += [1.0] * (size - len(block))
        block += [None] * (size - len(block))
        anchored = bool(clean) and network.adapter is not None
        clean_TV, noisy_BD = network.forward(cache, clean, [Block(len(clean), block)], tail=int(anchored))
        run.forwards += 1
        cache.keep(len(clean))
        clean = []
        _commit(network, run, rule, block, chances, clean_TV if anchored else None, noisy_BD, emitted)
        while emitted < size and (token := block[emitted]) is not None:
            emitted += 1
            if not run.commit(token, chances[emitted - 1]):
                return
        run.show(block[emitted:])
        if network.adapter is not None or emitted == size:
            clean = [token for token in block[:emitted] if token is not None]
            block, chances, emitted = block[emitted:], chances[emitted:], 0


def _commit(
    network: Network,
    run: Run,
    rule: UnmaskRule,
    block: list[int | None],
    chances: list[float],
    anchor_1V: Tensor | None,
    noisy_BD: Tensor,
    emitted: int,
) -> None:
    """Let the rule reveal places of `block`, in place. `anchor_1V` scores the first place, where a clean row does.

    A chained row is told the token before the place it predicts: the one that stands there, or the one just picked for
    it. A pick that rests on another pick is only as likely as both, and at least as uncertain as the two together.
    """
    start = len(run.tokens) - emitted  # the text's index of the block's first place
    masked = [place for place, token in enumerate(block) if token is None]
    together_BS = network.noisy_logits(noisy_BD) if network.chain is None else None

    def scores(place: int, own: int | None) -> Tensor:
        if place == 0 and anchor_1V is not None:
            return anchor_1V[0]
        at = place - network.shift
        if together_BS is not None:
            return together_BS[at]
        assert own is not None  # the first place is the clean row's
        return network.noisy_logits(noisy_BD[at : at + 1], [own])[0]

    allowed = run.constraint.allowed()
    if allowed is not None:
        place = masked[0]
        own = block[place - 1] if network.chain is not None and place else None
        block[place], chances[place] = run.pick(scores(place, own), start + place, allowed)
        return
    picks: dict[int, tuple[int, float]] = {}
    entropy: dict[int, float] = {}
    for place in masked:
        own, chance, doubt = None, 1.0, 0.0
        if network.chain is not None and place:
            own = block[place - 1]
            if own is None:
                (own, chance), doubt = picks[place - 1], entropy[place - 1]
        row = scores(place, own)
        index, probability = run.pick(row, start + place)
        drafted = not (place == 0 and anchor_1V is not None)
        picks[place] = network.drafted([index])[0] if drafted else index, probability * chance
        log_V = row.log_softmax(-1)
        entropy[place] = doubt - (log_V.exp() * log_V).nansum().item()
    chosen = rule.choose([picks[place][1] for place in masked], [entropy[place] for place in masked])
    if anchor_1V is not None:
        chosen = sorted({0, *chosen})  # no later forward will say anything of the first place
    for at in chosen:
        block[masked[at]], chances[masked[at]] = picks[masked[at]]
