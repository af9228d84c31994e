"""The prefix cache against a plain model of it: whatever was asked before, what it hands out is right."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.decoder import KVCache
from model.prefix_cache import PrefixCache, common
from tests.model.tiny import config

CONFIG = config(layers=1, kv_heads=1, head_dim=2, heads=1)
CAPACITY, BUFFERS = 12, 3
IDS = st.lists(st.integers(0, 2), min_size=1, max_size=CAPACITY)


def mark(ids: list[int], place: int) -> torch.Tensor:
    """A key that tells which beginning of which text it belongs to, as real keys do."""
    return torch.tensor([float(hash(tuple(ids[: place + 1])) % 100_003), float(place)])


def write(cache: KVCache, ids: list[int], start: int) -> None:
    for place in range(start, len(ids)):
        cache.keys[0, 0, place] = mark(ids, place)
        cache.values[0, 0, place] = -mark(ids, place)
    cache.length = len(ids)


def holds(cache: KVCache, ids: list[int], length: int) -> bool:
    return cache.length == length and all(
        torch.equal(cache.keys[0, 0, place], mark(ids, place))
        and torch.equal(cache.values[0, 0, place], -mark(ids, place))
        for place in range(length)
    )


@given(st.lists(st.tuples(IDS, st.integers(0, CAPACITY)), max_size=25), st.integers(1, BUFFERS))
@settings(deadline=None)
def test_what_is_lent_is_always_the_beginning_of_what_was_asked_for(
    requests: list[tuple[list[int], int]], buffers: int
) -> None:
    cache = PrefixCache(CONFIG, CAPACITY, buffers)
    seen: dict[int, KVCache] = {}
    for ids, written in requests:
        lent, length = cache.take(ids)
        seen[id(lent)] = lent
        assert length < len(ids)
        assert holds(lent, ids, length)
        done = max(length, min(written, len(ids)))  # a request may end before all of its prompt was read
        write(lent, ids[:done], length)
        cache.give(lent, ids)
    assert len(seen) <= buffers


@given(st.lists(IDS, min_size=1, max_size=BUFFERS))
@settings(deadline=None)
def test_as_many_texts_as_buffers_are_all_remembered(texts: list[list[int]]) -> None:
    texts = [[n, *ids][:CAPACITY] for n, ids in enumerate(texts, 10)]  # they share nothing
    cache = PrefixCache(CONFIG, CAPACITY, BUFFERS)
    for ids in texts:
        lent, _ = cache.take(ids)
        write(lent, ids, 0)
        cache.give(lent, ids)
    for ids in texts:
        lent, length = cache.take(ids)
        assert length == len(ids) - 1
        write(lent, ids, length)
        cache.give(lent, ids)


def test_a_text_that_grows_stays_in_its_buffer() -> None:
    cache = PrefixCache(CONFIG, CAPACITY, BUFFERS)
    first, _ = cache.take([1, 2, 3])
    write(first, [1, 2, 3], 0)
    cache.give(first, [1, 2, 3])
    again, length = cache.take([1, 2, 3, 4])
    assert again is first
    assert length == 3


def test_the_least_recently_used_gives_way() -> None:
    cache = PrefixCache(CONFIG, CAPACITY, 2)
    for ids in ([1, 1], [2, 2], [1, 1], [3, 3]):
        lent, length = cache.take(ids)
        write(lent, ids, length)
        cache.give(lent, ids)
    assert cache.take([1, 1])[1] == 1
    assert cache.take([2, 2])[1] == 0


def test_a_short_common_beginning_is_copied_and_both_texts_stay() -> None:
    cache = PrefixCache(CONFIG, CAPACITY, 2)
    one, two = [1, 2, 3, 3, 3, 3, 3, 3], [1, 2, 4, 4, 4, 4, 4, 4]
    for ids, shared in ((one, 0), (two, 2), (one, 7), (two, 7)):
        lent, length = cache.take(ids)
        assert length == shared
        assert holds(lent, ids, length)
        write(lent, ids, length)
        cache.give(lent, ids)


def test_a_lent_cache_that_never_comes_back_is_only_forgotten() -> None:
    cache = PrefixCache(CONFIG, CAPACITY, 1)
    cache.take([1, 2])
    lent, length = cache.take([1, 2])
    assert (lent.length, length) == (0, 0)


@given(IDS, IDS)
def test_common_is_the_longest_shared_beginning(a: list[int], b: list[int]) -> None:
    n = common(a, b)
    assert a[:n] == b[:n]
    assert a[n : n + 1] != b[n : n + 1] or len(a) == len(b) == n
