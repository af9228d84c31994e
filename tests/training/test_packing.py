"""Packing keeps every document once, and any sequence can be had without those before it."""

import numpy as np
import pytest

from training.packing import Packing, WholePacking

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
    packing = WholePacking(lambda n: documents[n], np.full(6, 20), prompts, 48, END, seed=3)
    for index in range(9):
        pack = packing[index]
        texts = set(pack.documents_L[pack.ids_L != END].tolist())  # the filling at the end has none
        rows = zip(pack.ids_L.tolist(), pack.documents_L.tolist(), pack.learnt_L.tolist(), strict=True)
        for id, document, learnt in rows:
            assert learnt == (document in texts if id == END else id % 100 >= prompts[id // 100])


@pytest.mark.parametrize("length", [40, 64, 1000])
def test_whole_packing_cuts_nothing_that_fits_and_gives_each_document_once_an_epoch(length):
    sizes = np.random.default_rng(length).integers(2, 60, 200)
    documents = [np.arange(100 * n, 100 * n + size) for n, size in enumerate(sizes)]
    packing = WholePacking(lambda n: documents[n], sizes, np.zeros(200, dtype=int), length, END, seed=3)
    for epoch in range(2):
        found = []
        for index in range(len(packing.packs)):
            pack = packing[epoch * len(packing.packs) + index]
            assert len(pack.ids_L) == len(pack.documents_L) == len(pack.learnt_L) == length
            for number in range(pack.documents_L[-1] + 1):
                text = pack.ids_L[(pack.documents_L == number) & (pack.ids_L != END)]
                if len(text):
                    assert text[0] % 100 == 0
                    assert len(text) == min(sizes[text[0] // 100], length)
                    found.append(int(text[0]))
        assert sorted(found) == [100 * n for n in range(200)]
    used = sum(np.minimum(sizes + packing.ends, length)) / (length * len(packing.packs))
    assert used > (0.9 if length == 1000 else 0.75)  # most of a sequence is text


def test_epochs_differ_in_order_and_the_seed_decides_it():
    documents = [np.full(10, n) for n in range(40)]
    make = lambda seed: Packing(lambda n: documents[n], np.full(40, 10), 50, END, seed=seed)  # noqa: E731
    packing = make(1)
    first = np.concatenate([packing[i].ids_L for i in range(8)])
    later = np.concatenate([packing[packing.total // 50 + 1 + i].ids_L for i in range(8)])
    assert np.array_equal(first, np.concatenate([make(1)[i].ids_L for i in range(8)]))
    assert not np.array_equal(first, later)
    assert not np.array_equal(first, np.concatenate([make(2)[i].ids_L for i in range(8)]))
