"""Packing keeps every token once, and any sequence can be had without those before it."""

import numpy as np
import pytest

from training.packing import Packing

END = 9999


@pytest.mark.parametrize("length", [7, 64, 1000])
def test_every_token_stands_exactly_once_in_an_epoch(length):
    rng = np.random.default_rng(length)
    documents = [
        np.arange(start, start + size)
        for start, size in zip(range(0, 9000, 300), rng.integers(1, 300, 30), strict=True)
    ]
    packing = Packing(lambda n: documents[n], np.array([len(d) for d in documents]), length, END, seed=3)
    packs = [packing[index] for index in range(-(-packing.total // length))]
    assert all(len(pack.ids_L) == length == len(pack.documents_L) for pack in packs)
    stream = np.concatenate([pack.ids_L for pack in packs])[: packing.total]
    text = stream[stream != END]
    assert sorted(text.tolist()) == sorted(np.concatenate(documents).tolist())
    ends = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], stream == END, [0]]))))[::2]
    assert ends.min() >= 1
    assert ends.max() <= 4
    for pack in packs:  # documents are contiguous and numbered from 0
        assert pack.documents_L[0] == 0
        assert set(np.diff(pack.documents_L).tolist()) <= {0, 1}


def test_prompts_are_not_learnt_and_what_follows_them_is():
    documents = [np.arange(100 * n, 100 * n + 20) for n in range(6)]
    prompts = np.array([0, 3, 19, 20, 7, 1])
    packing = Packing(lambda n: documents[n], np.full(6, 20), 16, END, seed=3, prompts=prompts)
    for index in range(9):
        pack = packing[index]
        for id, learnt in zip(pack.ids_L.tolist(), pack.learnt_L.tolist(), strict=True):
            assert learnt == (id == END or id % 100 >= prompts[id // 100])


def test_epochs_differ_in_order_and_the_seed_decides_it():
    documents = [np.full(10, n) for n in range(40)]
    make = lambda seed: Packing(lambda n: documents[n], np.full(40, 10), 50, END, seed=seed)  # noqa: E731
    packing = make(1)
    first = np.concatenate([packing[i].ids_L for i in range(8)])
    later = np.concatenate([packing[packing.total // 50 + 1 + i].ids_L for i in range(8)])
    assert np.array_equal(first, np.concatenate([make(1)[i].ids_L for i in range(8)]))
    assert not np.array_equal(first, later)
    assert not np.array_equal(first, np.concatenate([make(2)[i].ids_L for i in range(8)]))
