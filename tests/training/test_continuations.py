"""What the base writes in a batch is what it writes alone; what is measured is what it says."""

import numpy as np
import pytest
import torch

from model.schema import DiffcoderError
from training.continuations import write_on
from training.examples import Examples, store
from training.gated import GatedModel
from training.layouts import Sequence, as_ids
from training.progress import PLACES, HeldOut, draft, hits, measure, with_intervals


@pytest.fixture(scope="module")
def model(tiny_base):
    return GatedModel(tiny_base, rank=2, scale=1.0, draft_vocab_S=torch.arange(300), seed=0)


def alone(model, prompt, tokens):
    """Greedy, one token at a time, everything computed anew for each."""
    ids = list(prompt)
    for _ in range(tokens):
        ((_, hidden),) = model.read(as_ids(np.array(ids)))
        ids.append(int(model.choose(hidden[-1:])))
    return ids


def test_a_batch_of_prompts_of_different_lengths_equals_each_alone(model):
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 300, size) for size in (5, 9, 20)]
    for prompt, sequence in zip(prompts, write_on(model, prompts, 12, stop=-1), strict=True):
        assert sequence.ids.tolist() == alone(model, prompt, 12)
        assert sequence.first == len(prompt) - 1


def test_a_continuation_ends_behind_its_stop_token(model):
    prompt = np.arange(7)
    whole = alone(model, prompt, 12)
    stop = whole[7 + 4]
    (cut,) = write_on(model, [prompt], 12, stop=stop)
    assert cut.ids.tolist() == whole[: whole.index(stop, 7) + 1]


def test_continuations_come_back_from_disk(tmp_path):
    sequences = [Sequence(np.arange(n), n // 2) for n in (4, 9, 30)]
    store(tmp_path / "c", sequences)
    read = Examples(tmp_path / "c", "x")
    assert len(read) == 3
    for one, two in zip(read, sequences, strict=True):
        assert np.array_equal(one.ids, two.ids)
        assert one.first == two.first
    with pytest.raises(DiffcoderError, match="no sequences"):
        Examples(tmp_path / "none", "x")


def test_numbers_are_those_of_the_drafts(model):
    rng = np.random.default_rng(1)
    written = write_on(model, [rng.integers(0, 300, 12) for _ in range(2)], 30, stop=-1)
    held_out = HeldOut([Sequence(rng.integers(0, 300, 60), 8)], written)
    numbers = measure(model, held_out, 1)
    accepted, places = [], []
    for sequence in written:
        cache, argmax = held_out.read(model, sequence)
        for anchor in range(sequence.first, len(sequence.ids) - PLACES, 5):
            drafts = draft(model, cache, argmax, np.array([anchor]), 1)[0].tolist()
            truth = sequence.ids[anchor + 1 : anchor + 1 + PLACES].tolist()
            assert drafts[0] == truth[0]  # the base's own token, exactly
            places.append([a == b for a, b in zip(drafts, truth, strict=True)])
            misses = [n for n in range(1, PLACES) if drafts[n] != truth[n]]
            accepted.append((misses[0] if misses else PLACES) - 1)
    assert numbers["accepted"] == pytest.approx(np.mean(accepted), abs=1e-3)
    assert numbers["written"] == pytest.approx(np.mean(places, 0).tolist(), abs=1e-3)


def test_numbers_with_intervals_are_the_same_numbers(model):
    rng = np.random.default_rng(3)
    texts = [[Sequence(rng.integers(0, 300, 60), 8) for _ in range(count)] for count in (3, 5)]
    written = write_on(model, [rng.integers(0, 300, 12) for _ in range(4)], 30, stop=-1)
    held_out = HeldOut(texts[0], written)
    found = with_intervals([hits(model, held_out, 1)])
    for name, value in measure(model, held_out, 1).items():
        assert found[name] == value
        low, high = np.array(found[f"{name}_interval"]).T
        assert np.all((low <= np.array(value)) & (np.array(value) <= high))
    assert (found["files"], found["places"]) == (3, 3 * len(range(8, 60 - PLACES, 15)))


def test_an_interval_over_files_covers_the_mean_over_languages():
    """Two languages of different levels, files that differ: what is drawn lies in its interval 19 times in 20."""
    rng, covered, files = np.random.default_rng(0), 0, 25
    for _ in range(200):
        levels = [np.clip(rng.normal(level, 0.1, files), 0, 1) for level in (0.3, 0.7)]
        groups = [
            {"text": [torch.from_numpy(rng.random((20, 1)) < share) for share in shares]} for shares in levels
        ]
        found = with_intervals(groups, draws=400)
        ((low, high),) = found["text_interval"]
        covered += low <= 0.5 <= high
        assert found["places"] == 2 * files * 20
    assert 0.88 < covered / 200 < 0.985
