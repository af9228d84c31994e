"""`make train-smoke`, which runs every recipe and command once."""

import pytest

from training import cli, smoke
from training.recipe import RECIPES


def test_every_recipe_and_command_runs_and_gets_better(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = []
    main = cli.main
    monkeypatch.setattr(cli, "main", lambda words: commands.append(words) or main(words))
    assert set(smoke.CHANGES) == {path.stem for path in RECIPES.glob("*.toml")}
    assert smoke.main() == 0
    said = capsys.readouterr().out
    assert all(f"\n{name:14} " in said for name in smoke.CHANGES if name != "team")
    assert all(any(command in words for words in commands) for command in cli.COMMANDS)
    assert '"commit": 1' in said
