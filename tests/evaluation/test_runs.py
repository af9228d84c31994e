"""Runs on disk: resumed after any interruption, chosen and seeded the same way everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation import summary
from evaluation.runs import Completion, Facts, Run, Scored, Settings, chosen, seed_of
from model.schema import DiffcoderError


def facts(**changes) -> Facts:
    settings = Settings(task="humaneval", **changes)
    return Facts(
        settings=settings, version="0", machine="a machine", threads=2, started="2026-11-24", items=2
    )


def completion(task_id: str, sample: int = 0, **changes) -> Completion:
    fields = {"completion": "x", "text": "x", "tokens": 10, "forwards": 5, "ms": 120.0, "prefill_ms": 20.0}
    fields |= {"prefill_tokens": 50, "stop_reason": "end_token", "confidence": 0.5}
    return Completion(task_id=task_id, sample=sample, **(fields | changes))


def scored(task_id: str, passed: bool, sample: int = 0, **changes) -> Scored:
    reason = "passed" if passed else "AssertionError: no"
    return Scored(task_id=task_id, sample=sample, passed=passed, reason=reason, seconds=0.1, **changes)


def test_a_run_goes_on_where_it_was_torn(tmp_path: Path) -> None:
    run = Run.start(tmp_path / "run", facts(), resume=False)
    run.add(completion("a"))
    run.add(completion("b"))
    path = tmp_path / "run/completions.jsonl"
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        again = Run.start(tmp_path / "run", facts(), resume=True)
        kept = again.completions()
        assert set(kept) == {("a", 0), ("b", 0)} if cut >= len(whole) - 1 else ("b", 0) not in kept
        again.add(completion("c"))
        assert ("c", 0) in again.completions()
        assert ("a", 0) in again.completions() or cut < whole.index(b"\n")


def test_a_run_is_not_overwritten(tmp_path: Path) -> None:
    Run.start(tmp_path, facts(), resume=False)
    with pytest.raises(DiffcoderError, match="--resume"):
        Run.start(tmp_path, facts(), resume=False)
    with pytest.raises(DiffcoderError, match="other settings"):
        Run.start(tmp_path, facts(seed=1), resume=True)
    with pytest.raises(DiffcoderError, match=r"no run\.json"):
        Run.open(tmp_path / "elsewhere")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(DiffcoderError, match="cannot be read"):
        Run.open(tmp_path)


def test_a_full_disk_is_named_and_finished_work_kept(tmp_path: Path) -> None:
    run = Run.start(tmp_path, facts(), resume=False)
    run.add(completion("a"))
    (tmp_path / "verdicts.jsonl").symlink_to("/dev/full")
    with pytest.raises(DiffcoderError, match=r"disk is full.*--resume"):
        run.add(scored("a", True))
    assert ("a", 0) in run.completions()


def test_a_smaller_choice_is_part_of_a_larger_one() -> None:
    names = [f"HumanEval/{n}" for n in range(164)]
    assert chosen(names, None) == chosen(names, 500) == names
    for limit in (1, 10, 40, 163):
        some = chosen(names, limit)
        assert len(some) == limit
        assert some == [name for name in names if name in set(some)]
        assert set(some) <= set(chosen(names, limit + 1))
    assert chosen(reversed(names), 10) == list(reversed(chosen(names, 10)))


def test_seeds_depend_on_nothing_else() -> None:
    seeds = {seed_of(seed, name, sample) for seed in range(3) for name in "abc" for sample in range(3)}
    assert len(seeds) == 27
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert seed_of(0, "HumanEval/0", 0) == seed_of(0, "HumanEval/0", 0) == 816897152


def test_labels_tell_settings_apart() -> None:
    several = [{}, {"verify": "ar"}, {"verify": "none"}, {"verify": "none", "rule": "confidence"}]
    several += [{"verify": "none", "rule": "confidence", "threshold": 0.8}, {"style": "chat"}, {"limit": 10}]
    several += [{"seed": 3}, {"model": "large"}, {"temperature": 0.8, "samples": 10}, {"max_tokens": 64}]
    labels = [Settings(task="humaneval", **changes).label() for changes in several]
    assert len(set(labels)) == len(labels)


def test_summary(tmp_path: Path) -> None:
    run = Run.start(tmp_path, facts(), resume=False)
    for name in "abcd":
        for sample in range(5):
            run.add(completion(name, sample))
            run.add(
                scored(name, name == "a" or (name == "b" and sample < 2), sample, measures={"exact": 1.0})
            )
    result = summary.of_run(run)
    assert (result.problems, result.completions) == (4, 20)
    assert result.pass_at["1"][0] == pytest.approx((1 + 0.4) / 4)
    assert result.pass_at["5"][0] == pytest.approx(0.5)
    assert set(result.pass_at) == {"1", "5"}
    assert result.tokens_per_forward == 2
    assert result.ms_per_token == 10
    assert result.seconds_per_answer == pytest.approx(0.12)
    assert result.measures == {"exact": 1.0}
    assert result.failures == {"AssertionError": 13}
    assert summary.shares(run) == {"a": 1.0, "b": 0.4, "c": 0.0, "d": 0.0}
    with pytest.raises(DiffcoderError, match="no verdicts"):
        summary.of_run(Run.start(tmp_path / "empty", facts(), resume=False))


def test_a_left_over_of_a_batch_says_nothing_of_time(tmp_path: Path) -> None:
    run = Run.start(tmp_path, facts(), resume=False)
    for name, batch in (("a", 1), ("b", 8)):
        run.add(completion(name, batch=batch))
        run.add(scored(name, True))
        result = summary.of_run(run)
        assert (result.ms_per_token is None) == (result.seconds_per_answer is None) == (batch == 8)
