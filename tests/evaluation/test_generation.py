"""Answers do not depend on the batch, the order, what is cached or what else is asked: a tiny random model shows it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from evaluation import chat_generator, generation, tasks
from evaluation.batch import Batch, SharedLinear, Stopped
from evaluation.chat_generator import ChatGenerator
from evaluation.runs import Facts, Planning, Run, Settings
from evaluation.task import Item
from model import store
from model.checkpoints import open_checkpoint
from model.schema import DiffcoderError
from tests.model.folders import write_adapter, write_model

TASK = tasks.one("humaneval-infilling-single")
SETTINGS = (
    Settings(task="humaneval-infilling-single", verify="ar", max_tokens=12, temperature=0.7, samples=2),
    Settings(
        task="humaneval-infilling-single", verify="none", rule="confidence", threshold=0.05, max_tokens=12
    ),
    Settings(task="humaneval-infilling-single", verify="none", rule="sequential", max_tokens=12),
)


def holes() -> list[Item]:
    """Three functions of three holes each."""
    found = []
    for function in range(3):
        lines = [f"    x{n} = f{function}({n}, 'abc')\n" for n in range(6)]
        for hole in range(3):
            prompt = f"def f{function}(a):\n" + "".join(lines[:hole])
            row = {"prompt": prompt, "suffix": "".join(lines[hole + 1 :]), "canonical_solution": lines[hole]}
            found.append(Item(f"SingleLineInfilling/HumanEval/{function}/L{hole}", row))
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatGenerator]:
    home = tmp_path_factory.mktemp("home")
    folder = home / "tiny"
    write_model(folder)
    sha = store.sha256(folder / "model.safetensors")
    adapter = write_adapter(home / "adapter.safetensors", open_checkpoint(folder).config, sha)
    (home / "models.toml").write_text(
        '[mine]\ntitle = "Mine"\nprofile = "qwen-coder"\nblock = 4\n'
        f'[[mine.sources]]\nkind = "folder"\npath = "{folder}"\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIFFCODER_HOME", str(home))
        yield chat_generator.load("mine", "int8", str(adapter), 1)


def run_in(folder: Path, settings: Settings) -> Run:
    facts = Facts(settings=settings, version="0", machine="a machine", threads=1, started="2026", items=9)
    return Run.start(folder, facts, resume=True)


def answers(run: Run) -> dict:
    return {
        key: (line.text, line.completion, line.tokens, line.forwards, line.confidence, line.stop_reason)
        for key, line in run.completions().items()
    }


@pytest.fixture(scope="module")
def alone(model: ChatGenerator, tmp_path_factory: pytest.TempPathFactory) -> dict[Settings, dict]:
    """Every answer, each asked of a generator that has seen nothing before."""
    found = {}
    for settings in SETTINGS:
        run = run_in(tmp_path_factory.mktemp("alone"), settings)
        for item in holes():
            generation.generate(ChatGenerator(model.loaded), TASK, [item], [run])
        found[settings] = answers(run)
    return found


def test_the_holes_are_worth_comparing(alone: dict[Settings, dict]) -> None:
    sampled, denoised, _ = (list(alone[settings].values()) for settings in SETTINGS)
    assert (len(sampled), len(denoised)) == (18, 9)
    assert len({text for text, *_ in sampled}) > 12
    assert sum(tokens for _, _, tokens, *_ in denoised) > sum(forwards for *_, forwards, _, _ in denoised) > 9


@pytest.mark.parametrize("batch", [1, 2, 3, 7])
def test_the_batch_and_the_other_runs_change_nothing(
    batch: int, model: ChatGenerator, alone: dict[Settings, dict], tmp_path: Path
) -> None:
    runs = [run_in(tmp_path / str(n), settings) for n, settings in enumerate(SETTINGS)]
    steps: list[None] = []
    generation.generate(model, TASK, holes(), runs, batch, lambda: steps.append(None))
    assert [answers(run) for run in runs] == [alone[settings] for settings in SETTINGS]
    assert len(steps) == 36
    assert {line.batch for run in runs for line in run.completions().values()} == {batch}


def test_the_order_and_an_interruption_change_nothing(
    model: ChatGenerator, alone: dict[Settings, dict], tmp_path: Path
) -> None:
    run = run_in(tmp_path, SETTINGS[0])
    generation.generate(model, TASK, holes()[4:6], [run])
    generation.generate(model, TASK, holes()[::-1], [run], 2)
    assert answers(run) == alone[SETTINGS[0]]
    lines = (tmp_path / "completions.jsonl").read_text().splitlines()
    assert len(lines) == 18


@pytest.mark.parametrize("plan", ["measured", "none"])
def test_however_drafts_are_planned_the_text_is_the_same(
    plan: Planning, model: ChatGenerator, tmp_path: Path
) -> None:
    greedy = Settings(task="humaneval-infilling-single", verify="ar", max_tokens=12)
    texts = []
    for number, other in enumerate((model, ChatGenerator(model.loaded, plan))):
        run = run_in(tmp_path / str(number), greedy)
        generation.generate(other, TASK, holes(), [run])
        lines = run.completions()
        texts.append({key: line.text for key, line in lines.items()})
    assert texts[0] == texts[1]
    if plan == "none":
        # The last token may be the end's, which is not one of the text's.
        assert all(line.forwards - line.tokens in (0, 1) for line in lines.values())


def test_the_prompt_is_read_once(model: ChatGenerator, tmp_path: Path) -> None:
    runs = [run_in(tmp_path / str(n), settings) for n, settings in enumerate(SETTINGS)]
    generation.generate(ChatGenerator(model.loaded), TASK, holes()[:1], runs)
    first, second = (line.prefill_tokens for line in runs[0].completions().values())
    assert first > 30
    others = [line.prefill_tokens for run in runs[1:] for line in run.completions().values()]
    assert [second, *others] == [1, 1, 1]  # the last token, whose scores begin the answer


@pytest.mark.parametrize("batch", [1, 3])
def test_a_failure_ends_all_and_keeps_what_is_done(batch: int, model: ChatGenerator, tmp_path: Path) -> None:
    run = run_in(tmp_path, SETTINGS[1])

    def full() -> None:
        raise DiffcoderError("disk", "The disk is full.")

    with pytest.raises(DiffcoderError, match="disk is full"):
        generation.generate(model, TASK, holes(), [run], batch, full)
    assert 1 <= len(run.completions()) <= batch
    assert [thread for thread in threading.enumerate() if "ThreadPool" in thread.name] == []


@pytest.mark.parametrize("batch", [1, 3])
def test_an_interruption_keeps_what_is_done(
    batch: int, model: ChatGenerator, alone: dict[Settings, dict], tmp_path: Path
) -> None:
    """Ctrl-C in the middle: finished answers stay as they would have been, and the rest is asked for again."""
    run = run_in(tmp_path, SETTINGS[1])
    steps: list[None] = []

    def interrupt() -> None:
        steps.append(None)
        if len(steps) == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        generation.generate(model, TASK, holes(), [run], batch, interrupt)
    assert 4 <= len(run.completions()) < 9
    generation.generate(model, TASK, holes(), [run], batch)
    assert answers(run) == alone[SETTINGS[1]]


@pytest.mark.parametrize(("field", "value"), [("prompt", 5), ("suffix", None), ("prompt", ["def f():"])])
def test_a_row_that_makes_no_sense_is_named(
    field: str, value: object, model: ChatGenerator, tmp_path: Path
) -> None:
    item = holes()[0]
    item.row[field] = value
    with pytest.raises(DiffcoderError, match="L0 of humaneval-infilling-single makes no sense"):
        generation.generate(model, TASK, [item], [run_in(tmp_path, SETTINGS[1])])


def test_a_prompt_that_does_not_fit_is_an_empty_answer(model: ChatGenerator, tmp_path: Path) -> None:
    """An edit of more lines than the model can write again counts as unsolved; the run goes on."""
    task = tasks.one("canitedit-lazy")
    run = run_in(tmp_path, Settings(task=task.name, verify="ar", max_tokens=8))
    rows = [{"before": "x = 1\n" * lines, "instruction_lazy": "Make it 2."} for lines in (2000, 1)]
    generation.generate(model, task, [Item(str(n), row) for n, row in enumerate(rows)], [run])
    first, second = run.completions().values()
    assert (first.stop_reason, first.completion) == ("refused: too_long", "")
    assert second.stop_reason != "refused: too_long"


def test_a_product_that_fails_is_told_to_its_member(model: ChatGenerator) -> None:
    batch = Batch(model.loaded.decoder)
    batch.join()
    head = SharedLinear(model.loaded.decoder.head, batch)
    with pytest.raises(RuntimeError):
        head(torch.zeros(2, 3))
    batch.stop()
    with pytest.raises(Stopped):
        head(torch.zeros(2, 64))
