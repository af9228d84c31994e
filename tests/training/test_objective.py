"""Targets and weights of noisy blocks against a slow reading of their definition."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from training.objective import Weights, agreement_runs, choose_anchors, distilled, make_blocks, reached

WEIGHTS = Weights(first=0.3, decay=0.9, off=0.25, partial=0.5)


def text_and_choices(rng, length=60, agreement=0.7):
    """A text, and a base's choice after each position that agrees with it that often."""
    ids = rng.integers(0, 50, length)
    argmax = np.append(ids[1:], 0)
    wrong = rng.random(length) > agreement
    argmax[wrong] += 100
    return ids, argmax


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("block", [2, 4, 8])
def test_whole_masks_ask_for_the_greedy_continuation_up_to_the_first_disagreement(shift, block):
    rng = np.random.default_rng(block)
    ids, argmax = text_and_choices(rng)
    anchors = np.arange(5, 60 - block - shift)
    blocks = make_blocks(
        rng, ids, argmax, anchors, block, shift=shift, partial=0.0, ceiling=1.0, weights=WEIGHTS
    )
    assert blocks.mask_NB.all()
    for row, anchor in enumerate(anchors):
        agreed = True
        for slot in range(1, block + shift + 1):
            at = anchor + slot
            if slot > shift:
                place = slot - shift - 1
                weight = 0.3 if slot == 1 else 0.9 ** (slot - 2)
                assert blocks.targets_NB[row, place] == (argmax[at - 1] if agreed else ids[at])
                assert blocks.weights_NB[row, place] == pytest.approx(weight if agreed else weight * 0.25)
                assert blocks.ids_NB[row, place] == ids[anchor + 1 + place]
            agreed = agreed and argmax[at - 1] == ids[at]


@pytest.mark.parametrize("shift", [0, 1])
def test_partly_masked_blocks_ask_for_the_text_where_it_is_hidden(shift):
    rng = np.random.default_rng(3)
    ids, argmax = text_and_choices(rng)
    anchors = np.arange(5, 50)
    blocks = make_blocks(rng, ids, argmax, anchors, 4, shift=shift, partial=1.0, ceiling=1.0, weights=WEIGHTS)
    assert not blocks.mask_NB[:, :shift].any()
    assert blocks.mask_NB[:, shift:].any(1).all()
    for row, anchor in enumerate(anchors):
        for place in range(4):
            at = anchor + 1 + place + shift
            hidden = at > anchor + 4 or blocks.mask_NB[row, at - anchor - 1]
            assert blocks.targets_NB[row, place] == ids[at]
            assert blocks.weights_NB[row, place] == (0.5 if hidden else 0.0)


def test_agreement_runs_count_tokens_up_to_the_first_disagreement():
    agree = np.array([True, True, True, False, True, True])
    assert agreement_runs(agree).tolist() == [2, 1, 0, 2, 1, 0]


def test_anchors_are_distinct_leave_room_for_targets_and_prefer_agreement():
    rng = np.random.default_rng(0)
    agree = np.ones(400, bool)
    agree[200:] = False
    for shift in (0, 1):
        anchors = choose_anchors(rng, agree, 10, 6, shift, 1000, easy=0.0)
        assert anchors.tolist() == list(range(10, 400 - 6 - shift))
    chosen = np.concatenate([choose_anchors(rng, agree, 10, 4, 1, 40, easy=4.0) for _ in range(50)])
    assert (chosen < 200).mean() > 0.7


def test_half_soft_targets_are_cross_entropies_to_mixed_distributions_where_the_teacher_agrees():
    generator = torch.Generator().manual_seed(0)
    logits, teacher = (torch.randn(6, 20, generator=generator) for _ in range(2))
    choices = teacher.argmax(-1)
    choices[3:] = (choices[3:] + 1) % 20
    hard = F.one_hot(choices, 20).float()
    mixed = torch.cat([(hard + teacher.softmax(-1))[:3] / 2, hard[3:]])
    for soft, wanted in ((0.0, hard), (0.5, mixed)):
        expected = F.cross_entropy(logits, wanted, reduction="none")
        assert torch.allclose(distilled(logits, choices, teacher, torch.arange(6), soft), expected, atol=1e-6)


def test_places_behind_the_drafters_first_miss_are_not_reached():
    right = torch.tensor([[True, True, False, True], [False, True, True, True], [True, True, True, True]])
    assert reached(right).tolist() == [[True, True, True, False], [True, False, False, False], [True] * 4]
