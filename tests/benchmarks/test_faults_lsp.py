"""`make faults-lsp` in small: its own checks hold, so that a full run tells something."""

from __future__ import annotations

import asyncio

from benchmarks import faults_lsp


def test_the_text_stays_equal():
    assert faults_lsp.divergences(3000) == 0


def test_mutated_frames_are_answered_once_and_end_nothing():
    assert faults_lsp.mutated_frames(400) == (0, 0, 400)


def test_broken_and_hanging_handlers_are_answered():
    count, bad = asyncio.run(faults_lsp.broken_handlers())
    assert (count > 20, bad) == (True, 0)


def test_typing_amid_answers_damages_nothing():
    stale, outside, used = faults_lsp.interleavings(300)
    assert (stale, outside) == (0, 0)
    assert used > 30
