"""Token healing against its definition: which tokens may begin a text whose first bytes are known."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.decoder import KVCache
from model.healing import Healing, Spellings
from model.sampler import Run, denoise, verify
from model.unmask import UnmaskRule
from tests.model.tiny import FLAT, VOCAB, network

PIECES = st.lists(
    st.lists(st.sampled_from([b"a", b"b", b"\xc3", b"\xa9", b"\xff"]), max_size=4).map(b"".join)
)
TYPED = st.lists(st.sampled_from([b"a", b"b", b"\xc3", b"\xa9", b"\xff"]), min_size=1, max_size=6).map(
    b"".join
)


class Table:
    """The one thing a token table is asked here: the bytes of each id, empty for what is not text."""

    def __init__(self, pieces: list[bytes]):
        self.bytes = pieces


def allowed_plainly(pieces: list[bytes], rest: bytes) -> set[int]:
    return {
        id for id, piece in enumerate(pieces) if piece and (piece.startswith(rest) or rest.startswith(piece))
    }


@given(PIECES, TYPED)
def test_allowed_are_the_tokens_that_spell_on_or_spell_a_part(pieces: list[bytes], rest: bytes) -> None:
    found = Spellings(Table(pieces)).allowed(rest).tolist()  # type: ignore[arg-type]
    assert len(found) == len(set(found))
    assert set(found) == allowed_plainly(pieces, rest)


@given(PIECES, TYPED, st.data())
def test_whatever_allowed_tokens_are_taken_the_text_begins_as_typed(
    pieces: list[bytes], typed: bytes, data: st.DataObject
) -> None:
    pieces += [typed[n : n + 1] for n in range(len(typed))]  # every byte has a token, as in a byte-level BPE
    healing, spelled = Healing(Spellings(Table(pieces)), typed), b""  # type: ignore[arg-type]
    while (allowed := healing.allowed()) is not None:
        token = data.draw(st.sampled_from(allowed.tolist()))
        healing.advance(token)
        spelled += pieces[token]
    assert spelled.startswith(typed)


def test_once_the_typed_bytes_are_spelled_every_token_is_free() -> None:
    healing = Healing(Spellings(Table([b"a", b"ab", b"abc", b""])), b"ab")  # type: ignore[arg-type]
    healing.advance(0)
    assert healing.allowed() is not None
    healing.advance(1)
    assert healing.allowed() is None
    healing.advance(3)
    assert healing.allowed() is None


@pytest.mark.parametrize("kind", ["gated", "gated-small", "merged"])
def test_what_the_user_typed_is_spelled_whatever_the_drafting_vocabulary_knows(kind: str) -> None:
    net = network(kind, 4, 6)
    spellings = Spellings(Table([bytes([id]) for id in range(VOCAB)]))  # type: ignore[arg-type]
    typed = bytes([3, 6, 9, 12, 15, 18])  # `gated-small` drafts none of these
    for decode in (verify, denoise) if net.speaks_ar else (denoise,):
        run = Run(max_tokens=12, ends=frozenset(), constraint=Healing(spellings, typed))
        last = FLAT if decode is verify else UnmaskRule.of("confidence", 0.1)
        decode(net, KVCache(net.decoder.config, 64), [1, 2, 4, 7], run, last)  # type: ignore[operator]
        assert bytes(run.tokens).startswith(typed)
        assert len(run.tokens) == 12
        assert all(0 < probability <= 1 for probability in run.probabilities)


@pytest.mark.model
@pytest.mark.parametrize(
    "rest", [b"s", b" retu", b"\xc3", "é".encode(), "日".encode()[:2], b"\n    ", b"zzzqq"]
)
def test_allowed_in_the_real_vocabulary(generator: object, rest: bytes) -> None:
    pieces = generator.tokens.bytes  # type: ignore[attr-defined]
    spellings = Spellings(generator.tokens)  # type: ignore[attr-defined]
    assert set(spellings.allowed(rest).tolist()) == allowed_plainly(pieces, rest)
