"""One loaded model: requests in text, answers in text. Joins layout, healing, sampler, stop rules and prefix cache.

Blocking, one call at a time. Knows no sockets, no queues, no editors.
"""

from __future__ import annotations

import ctypes
import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from model import costs, layout, loading, sampler
from model.decoder import KVCache
from model.drafters import Beliefs, CostCurve, PromptLookup, Revision, TextDrafter
from model.ends import best_end
from model.filling import Filling
from model.healing import Healing, Spellings
from model.layout import Mark, Piece, Selection
from model.loading import Loaded
from model.prefix_cache import PrefixCache
from model.sampler import Free, Network, Run
from model.schema import (
    DiffcoderError,
    Draft,
    EditRequest,
    EditResponse,
    FillRequest,
    FillResponse,
    Limits,
    ScoreRequest,
    ScoreResponse,
    StopReason,
    TokenScore,
    Usage,
)
from model.stops import Stops
from model.tokens import encode_text
from model.unmask import DEFAULTS, GATED_DEFAULTS, UnmaskRule

FILL_TOKENS = 1536  # of a gap's prompt: what two cores read in a few seconds when nothing of it is cached
EDIT_TOKENS = 3072
WINDOW = 4096  # prompt and answer of the longest request
SPARE = 192  # rows of a forward behind these: drafts and masks, or the branches of `best_end`
CACHE_BUFFERS = 2  # of 100 MB each, once they are full
LONG_S = 0.5  # a request that took longer leaves much freed memory behind, and does not feel the millisecond
_SCORED_ROWS = 64  # of a forward: their scores over the whole vocabulary take 40 MB

OnDraft = Callable[[Draft], None]

log = logging.getLogger("diffcoder.generator")


def never() -> bool:
    return False


class Generator:
    """`fill`, `edit` and `score` with one model. Raises DiffcoderError for what a caller can mend."""

    def __init__(self, loaded: Loaded, team: Path | None = None):
        """`team`: where a team's adapter may lie; it may appear, change and go between two requests."""
        self.name, self.profile = loaded.name, loaded.profile
        self.tokens, self._tokenizer = loaded.tokens, loaded.tokenizer
        self._spellings = Spellings(loaded.tokens)
        diffuses = loaded.adapter is not None or self.profile.weights == "merged"
        self.network = Network(
            loaded.decoder,
            block=self.profile.block if diffuses else 1,
            mask_id=self._id(self.profile.mask) if diffuses and self.profile.mask else None,
            adapter=loaded.adapter,
            draft_head=loaded.draft_head,
            draft_vocab_S=loaded.draft_vocab_S,
            block_causal=self.profile.clean == "block_causal",
            aligned=self.profile.aligned,
            verifies=self.profile.verifies,
        )
        self._ends = frozenset(
            self._id(mark) for mark in self.profile.ends if mark in self.tokens.special_ids
        )
        self._window = min(WINDOW, loaded.decoder.config.context)
        self._longest = self._window // 4  # tokens of an answer
        self._cache = PrefixCache(loaded.decoder.config, self._window, CACHE_BUFFERS)
        self.cost = self._measure()
        self._beliefs = Beliefs(self.cost)
        self._team_file, self._shipped = team, (loaded.adapter, loaded.adapter_file)
        self._team_seen: tuple[int, int, int] | None = None
        self._tuned = False
        self._look_for_team()

    @classmethod
    def load(
        cls,
        name: str = "default",
        *,
        threads: int | None = None,
        adapter: Path | None = None,
        team: Path | None = None,
    ) -> Generator:
        """Load by registry name or path; `threads` defaults to this process's processors."""
        torch.set_num_threads(threads or len(os.sched_getaffinity(0)))
        generator = cls(loading.load(name, adapter=adapter), team)
        _return_freed_memory()
        return generator

    def _look_for_team(self) -> None:
        """Take up the team's adapter as its file is now, or leave it off. What was computed with another one goes."""
        if self._team_file is None:
            return
        try:
            status = self._team_file.stat()
            seen = status.st_ino, status.st_mtime_ns, status.st_size
        except OSError:
            seen = None
        if seen == self._team_seen:
            return
        (adapter, file), decoder, tuned = self._shipped, self.network.decoder, False
        if seen is None:
            log.info("the team's adapter is off")
        else:
            try:
                team = loading.load_team(self.name, self._team_file, file, decoder)
                decoder, adapter, tuned = team.decoder, team.adapter or adapter, True
                log.info("the team's adapter is on")
            except DiffcoderError as error:
                log.error("the team's adapter stays off: %s", error.message)
        if self._tuned and not tuned:
            decoder = loading.without_team(self.name, file, decoder)
        self._team_seen, self._tuned = seen, tuned
        self.network = replace(self.network, decoder=decoder, adapter=adapter)
        self._cache = PrefixCache(decoder.config, self._window, CACHE_BUFFERS)
        self._beliefs = Beliefs(self.cost)
        _return_freed_memory()

    @property
    def verify_default(self) -> str:
        return "ar" if self.network.speaks_ar else "none"

    def fill(
        self, request: FillRequest, on_draft: OnDraft | None = None, cancelled: Callable[[], bool] = never
    ) -> FillResponse:
        """Write what stands between prefix and suffix.

        The last token of the prefix is written again with the filling, its spelling fixed: the user's cursor
        rarely stands where the model's tokens end.
        """
        self._look_for_team()
        started, limits = time.monotonic(), request.limits
        prefix, suffix, *stop = (
            text.replace("\r\n", "\n") for text in (request.prefix, request.suffix, *limits.stop)
        )
        ids, typed = self._healed(
            self._fitting(
                lambda n: layout.infill(self.profile, prefix, suffix, request.snippets, n),
                FILL_TOKENS,
                limits,
            )
        )
        stops = Stops(prefix, suffix, tuple(stop), limits.single_line)
        text = Filling(self.tokens.bytes, typed, stops, layout.newline_at(request.prefix, request.suffix))
        run = self._run(limits, text.until, on_draft, cancelled, typed, text, started)

        def close(cache: KVCache) -> None:
            head = encode_text(self._tokenizer, stops.head)
            open_ends = text.open_ends(run) if head else []
            if len(open_ends) > 1 and self.network.speaks_ar and not run.interrupted():
                cache.truncate(len(ids) - 1)
                end = best_end(self.network, cache, ids[-1], run.tokens, head, open_ends)
                text.end_at(end)
                run.forwards += 2
                run.stop_reason = "suffix" if end < len(run.tokens) else run.stop_reason

        usage = self._generate(ids, run, limits, PromptLookup(ids, order=3), started, close)
        return self._filled(text, run, usage)

    def _filled(self, text: Filling, run: Run, usage: Usage) -> FillResponse:
        answer, kept = text.result(run)
        return FillResponse(
            text=answer,
            confidence=_confidence(run.probabilities[:kept]),
            stop_reason=_reason(run),
            usage=usage,
            model=self.name,
        )

    def edit(
        self, request: EditRequest, on_draft: OnDraft | None = None, cancelled: Callable[[], bool] = never
    ) -> EditResponse:
        """Rewrite the selected lines; every other character of the file stays as it is."""
        if not request.instruction.strip():
            raise DiffcoderError("bad_request", "The instruction is empty: say what to change.")
        self._look_for_team()
        started, limits = time.monotonic(), request.limits
        selection = Selection.of(request)
        old = self.encode([selection.text])
        if len(old) > self._longest:
            raise DiffcoderError(
                "too_long",
                f"The selection has {len(old)} tokens and at most {self._longest} fit: select fewer lines.",
            )
        ids = self._fitting(lambda n: layout.edit(self.profile, request, selection, n), EDIT_TOKENS, limits)
        stops = Stops("", "", (*limits.stop, selection.fence))
        text = Filling(self.tokens.bytes, b"", stops)
        run = self._run(limits, text.until, on_draft, cancelled, b"", text, started)
        usage = self._generate(ids, run, limits, Revision(old, ids), started)
        answer, kept = text.result(run)
        reason = _reason(run)
        complete = reason in ("end_token", "stop_string")
        wish = " ".join([request.instruction, *(problem.message for problem in request.diagnostics)])
        replacement = (
            selection.restore(answer, wish)
            if complete
            else request.before[len(selection.before) : len(request.before) - len(selection.after)]
        )
        return EditResponse(
            text=selection.before + replacement + selection.after,
            replacement=replacement,
            confidence=_confidence(run.probabilities[:kept]),
            stop_reason=reason,
            usage=usage,
            model=self.name,
        )

    def score(self, request: ScoreRequest) -> ScoreResponse:
        """Log-probability of each token of `text`, in nats: "ar" given all before it, "diffusion" given that
        and the rest of its block (every place of a block masked in turn)."""
        self._look_for_team()
        started = time.monotonic()
        if request.mode == "ar" and not self.network.speaks_ar:
            raise DiffcoderError(
                "unsupported_model", "This model has no autoregressive scores: ask for mode diffusion."
            )
        if request.mode == "diffusion" and not self.network.diffuses:
            raise DiffcoderError("unsupported_model", "This model does not denoise: ask for mode ar.")
        text_ids = self.encode([request.text])
        room = self._window - len(text_ids) - self.network.block
        if room < 1:
            raise DiffcoderError(
                "too_long", f"The text has {len(text_ids)} tokens and at most {self._window - 16} fit."
            )
        ids = self.encode(
            layout.infill(self.profile, request.prefix, request.suffix, (), min(FILL_TOKENS, room))
        )
        ids = ids[-room:] or [self._end_of_text()]
        run = Run(max_tokens=1, ends=frozenset())
        cache, cached = self._lend(ids)
        score = self._score_ar if request.mode == "ar" else self._score_diffusion
        logs = score(cache, [*ids, *text_ids], len(ids), run)
        self._cache.give(cache, [*ids, *text_ids])
        scores, place = [], 0
        decoded = b""
        for id, log in zip(text_ids, logs, strict=True):
            scores.append(TokenScore(self.tokens.decode([id]), place, log))
            decoded += self.tokens.bytes[id]
            place = len(decoded.decode("utf-8", errors="ignore"))
        ms = (time.monotonic() - started) * 1000
        usage = Usage(
            tokens=len(text_ids),
            forwards=run.forwards,
            prefill_tokens=len(ids) - cached,
            cached_tokens=cached,
            ms=ms,
            prefill_ms=ms,
        )
        return ScoreResponse(tokens=tuple(scores), usage=usage, model=self.name)

    def _score_ar(self, cache: KVCache, ids: list[int], first: int, run: Run) -> list[float]:
        """Scores of `ids[first:]`."""
        sampler.prefill(self.network, cache, ids[cache.length : first - 1], run)
        logs: list[float] = []
        while cache.length < len(ids) - 1:
            rows = ids[cache.length : -1][:_SCORED_ROWS]
            targets = torch.tensor(ids[cache.length + 1 :][: len(rows)])
            scores_NV, _ = self.network.forward(cache, rows, (), len(rows))
            run.forwards += 1
            cache.keep(len(rows))
            logs += scores_NV.log_softmax(-1).gather(1, targets[:, None])[:, 0].tolist()
        return logs

    def _score_diffusion(self, cache: KVCache, ids: list[int], first: int, run: Run) -> list[float]:
        """Scores of `ids[first:]`, from the whole vocabulary even where drafts come from a part of it.

        A gated block begins with the token before the scored ones: its row predicts the first of them.
        """
        network = replace(self.network, draft_head=None, draft_vocab_S=None)
        size = max(network.block, 1 + network.shift)
        start = first - network.shift
        start -= start % size if network.aligned else 0
        logs = []
        sampler.prefill(network, cache, ids[cache.length : start], run)
        for at in range(start, len(ids) - network.shift, size - network.shift):
            block = ids[at : at + size]
            for place in range(max(network.shift, first - at), len(block)):
                noisy = [None if n == place else token for n, token in enumerate(block)]
                clean = ids[cache.length : at]
                _, hidden_BD = network.forward(cache, clean, [sampler.Block(len(clean), noisy)], 0)
                run.forwards += 1
                cache.keep(len(clean))
                row, own = place - network.shift, block[place - 1 : place] if network.chain else ()
                scores_1V = network.noisy_logits(hidden_BD[row : row + 1], own)
                logs.append(scores_1V[0].log_softmax(-1)[block[place]].item())
        return logs

    def _run(
        self,
        limits: Limits,
        until: Callable[[list[int]], StopReason | None],
        on_draft: OnDraft | None,
        cancelled: Callable[[], bool],
        typed: bytes,
        text: Filling,
        started: float,
    ) -> Run:
        if limits.max_tokens < 1:
            raise DiffcoderError(
                "bad_request", f"max_tokens is {limits.max_tokens}: ask for at least 1 token."
            )
        if not 0 <= limits.temperature <= 10:
            raise DiffcoderError(
                "bad_request", f"The temperature {limits.temperature} is not between 0 and 10."
            )
        return Run(
            max_tokens=min(limits.max_tokens, self._longest) + (1 if typed else 0),
            ends=self._ends,
            until=until,
            constraint=Healing(self._spellings, typed) if typed else Free(),
            temperature=limits.temperature,
            seed=limits.seed,
            deadline=started + limits.deadline_ms / 1000 if limits.deadline_ms is not None else None,
            cancelled=cancelled,
            on_draft=None if on_draft is None else lambda draft: on_draft(text.draft(draft)),
        )

    def _generate(
        self,
        ids: list[int],
        run: Run,
        limits: Limits,
        lookup: TextDrafter | None,
        started: float,
        finish: Callable[[KVCache], None] | None = None,
    ) -> Usage:
        """Prefill what the cache lacks and run the sampler; what it wrote stays in the cache.

        `finish` is called with the cache at the prompt's last token once the text is over.
        """
        verified = limits.verify or self.verify_default
        if verified == "ar" and not self.network.speaks_ar:
            raise DiffcoderError(
                "unsupported_model", "This model cannot verify its drafts: ask for verify none."
            )
        if verified == "none" and not self.network.diffuses:
            raise DiffcoderError("unsupported_model", "This model does not denoise: ask for verify ar.")
        defaults = DEFAULTS if self.network.adapter is None else GATED_DEFAULTS
        rule = UnmaskRule.of(limits.rule or "confidence", limits.threshold, defaults)
        cache, cached = self._lend(ids)
        new = ids[cached:]
        # The prompt's last rows ride in the first forward that drafts.
        split = (len(new) - 1) // self.network.prefill_rows * self.network.prefill_rows
        done = sampler.prefill(self.network, cache, new[:split], run)
        prefilled = time.monotonic()
        if done == split and run.stop_reason is None:
            if verified == "ar":
                sampler.verify(self.network, cache, new[split:], run, self.cost, lookup, self._beliefs)
            else:
                sampler.denoise(self.network, cache, new[split:], run, rule)
            if finish is not None and cache.length >= len(ids):
                finish(cache)
        self._cache.give(cache, [*ids, *run.tokens])
        now = time.monotonic()
        if now - started > LONG_S:
            _return_freed_memory()
        return Usage(
            tokens=len(run.tokens),
            forwards=run.forwards,
            prefill_tokens=len(new),
            cached_tokens=cached,
            ms=(now - started) * 1000,
            prefill_ms=(prefilled - started) * 1000,
        )

    def _lend(self, ids: Sequence[int]) -> tuple[KVCache, int]:
        """A cache that holds a beginning of `ids`, and that beginning's length."""
        cache, cached = self._cache.take(ids)
        if self.network.aligned:  # tokens of a block saw all of it: a block that changes is cut away whole
            cached -= cached % self.network.block
            cache.truncate(cached)
        return cache, cached

    def _fitting(self, make: Callable[[int], list[Piece]], budget: int, limits: Limits) -> list[int]:
        """Ids of the prompt that `make` lays out for a number of tokens: of `budget`, or of as many as fit.

        Layouts count characters; dense text (another script, minified code) has more tokens than they reckon with.
        """
        room = self._window - min(limits.max_tokens, self._longest) - SPARE
        asked = min(budget, room)
        most = min(budget * 5 // 4, room)
        while len(ids := self.encode(make(asked))) > most:
            if asked < 8:
                raise DiffcoderError("too_long", "The request does not fit this model: select fewer lines.")
            asked = asked * most * 9 // (len(ids) * 10)
        return ids

    def encode(self, pieces: Sequence[Piece]) -> list[int]:
        """Token ids of a prompt's pieces."""
        ids: list[int] = []
        for piece in pieces:
            if isinstance(piece, Mark):
                ids.append(self._id(piece.name))
            elif piece:
                ids += encode_text(self._tokenizer, piece)
        return ids

    def _healed(self, ids: list[int]) -> tuple[list[int], bytes]:
        """The prompt without its last token where that may be a part of a longer one, and what it spells."""
        if not ids:
            return [self._end_of_text()], b""
        piece = self.tokens.bytes[ids[-1]]
        if not piece or piece.endswith(b"\n") or len(ids) == 1:
            return ids, b""
        return ids[:-1], piece

    def _end_of_text(self) -> int:
        return min(self._ends)

    def _id(self, mark: str) -> int:
        found = self.tokens.special_ids.get(mark)
        if found is None:
            raise DiffcoderError(
                "unsupported_model", f"This model's tokenizer has no {mark}: its profile is another one's."
            )
        return found

    def _measure(self) -> CostCurve:
        cache, _ = self._cache.take([0, 0])
        curve = costs.measure(self.network, cache)
        self._cache.give(cache, [])
        return curve


def _return_freed_memory() -> None:
    """Loading leaves some 200 MB of freed blocks with the C library, reading a long prompt 100 MB; it keeps them unless
    asked (glibc only). The rows of the embedding that were looked up take up to 80 MB."""
    loading.forget_rows()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def _confidence(probabilities: Sequence[float]) -> float:
    """Geometric mean of the tokens' probabilities."""
    if not probabilities:
        return 1.0
    return math.exp(sum(math.log(max(p, 1e-9)) for p in probabilities) / len(probabilities))


def _reason(run: Run) -> StopReason:
    assert run.stop_reason is not None
    return run.stop_reason
