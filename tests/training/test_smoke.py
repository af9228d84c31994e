"""`make train-smoke`, which runs every recipe and command once."""

import pytest

from training import smoke


def test_every_recipe_and_command_runs_and_gets_better(capsys: pytest.CaptureFixture[str]) -> None:
    assert smoke.main() == 0
    said = capsys.readouterr().out
    assert all(f"\n{name:14} " in said for name in smoke.RECIPES)
