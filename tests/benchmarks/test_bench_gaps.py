"""`make bench-gaps`: what it counts, on fillings whose judgement is plain; the model's own are not for a test."""

from __future__ import annotations

from benchmarks.bench_gaps import OURS, PEER, gate, judged, report
from benchmarks.held_out import Gap, gaps

GAP = Gap("a.py", "within a line", "def f():\n    return g(a, b)\n", 22, 26)


def test_held_out_gaps_are_the_same_every_time_and_a_few_are_the_first_of_many():
    packages = "networkx rich"
    some = gaps(6, packages=packages)
    assert some == gaps(9, packages=packages)[:6]
    assert [gap.kind for gap in some[:3]] == ["rest of a line", "within a line", "whole lines"]
    for gap in some:
        assert gap.prefix + gap.cut + gap.suffix == gap.text
        assert len(gap.cut) >= 3


def test_fillings_are_judged_and_counted(capsys):
    assert GAP.cut == "a, b"
    good = judged(OURS, 0, GAP, "a, b", 0.9, 5)
    assert (good.repeats, good.indented, good.balanced, good.first_line) == (False, True, True, True)
    bad = judged(PEER, 0, GAP, "a, b)\n  x = (", 0.0, 5)
    assert (bad.repeats, bad.indented, bad.balanced, bad.first_line) == (False, False, True, False)
    repeated = judged(OURS, 1, GAP, "a, b)", 0.4, 5)
    assert repeated.repeats
    assert report([good, bad], explain=False) == 0
    assert report([good, repeated], explain=True) == 2
    assert "repeats, brackets in gap 1" in capsys.readouterr().out
    gate([good, repeated])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["0.00", "0%", "2", "1", "1", "50%"] in lines
    assert ["0.75", "50%", "1", "1", "0", "100%"] in lines
