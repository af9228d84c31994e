"""Conversations as examples: laid out as the family speaks, the prompt never learnt, a bad line named by its number."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from model.tokens import load_tokenizer
from training import cli, scratch
from training.examples import Examples, store
from training.layouts import Sequence

SYSTEM, ASK = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is <|im_end|>?"}
ANSWER = {"role": "assistant", "content": "A mark.\n"}
MORE = [{"role": "user", "content": "Whose?"}, {"role": "assistant", "content": "The tokenizer's."}]
KEY = "ghp_" + "a1B2" * 10


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of the Qwen family."""
    folder = tmp_path_factory.mktemp("base")
    texts = [Path(cli.__file__).read_text("utf-8")]
    scratch.write(folder, texts, vocab=400, layers=1, width=32, context=512, seed=0)
    return folder


def learn(base: Path, folder: Path, *lines: object, benchmark: str = "Return the sum of two numbers.") -> int:
    """`diffcoder train chat` of these lines; the examples go to `folder`/examples."""
    (folder / "sets").mkdir(exist_ok=True)
    (folder / "sets" / "set.jsonl").write_text(json.dumps({"prompt": benchmark}) + "\n")
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "chats.jsonl").write_text(text + "\n")
    places = [str(folder / "chats.jsonl"), str(folder / "examples")]
    return cli.main(["chat", *places, "--base", str(base), "--benchmarks", str(folder / "sets")])


def spelled(base: Path, folder: Path) -> list[tuple[str, str]]:
    """Prompt and answer of each example."""
    tokenizer = load_tokenizer(base)

    def text(ids: np.ndarray) -> str:
        return str(tokenizer.decode(ids.tolist(), skip_special_tokens=False))

    examples = Examples(folder / "examples", "x")
    return [(text(e.ids[: e.first + 1]), text(e.ids[e.first + 1 :])) for e in examples]


def test_every_answer_is_an_example_with_all_before_it_as_prompt(base: Path, tmp_path: Path) -> None:
    assert learn(base, tmp_path, {"messages": [SYSTEM, ASK, ANSWER, *MORE], "id": 7}) == 0
    start = (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is <|im_end|>?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    more = "A mark.\n<|im_end|>\n<|im_start|>user\nWhose?<|im_end|>\n<|im_start|>assistant\n"
    assert spelled(base, tmp_path) == [
        (start, "A mark.\n<|im_end|>"),
        (start + more, "The tokenizer's.<|im_end|>"),
    ]
    marks, ids = scratch.marks_of(base), Examples(tmp_path / "examples", "x")[0].ids.tolist()
    assert ids.count(marks["<|im_end|>"]) == 3  # the one in the user's text is text


def test_secrets_benchmarks_and_what_teaches_nothing_are_left_out(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    lines = [
        {"messages": [ASK, {"role": "assistant", "content": f"Use {KEY} for it."}]},
        {"messages": [ASK, {"role": "assistant", "content": f"Count: {known}."}]},
        {"messages": [ASK, {"role": "assistant", "content": " \n"}]},
        {"messages": [ASK, {"role": "assistant", "content": "word " * 9000}]},
        {"messages": [ASK, ANSWER]},
        "",
        {"messages": [ASK, ANSWER]},
        {"messages": [ASK]},
    ]
    assert learn(base, tmp_path, *lines, benchmark=f"Say {known} aloud.") == 0
    assert [answer for _, answer in spelled(base, tmp_path)] == [
        "Use scrubbed for it.<|im_end|>",
        "A mark.\n<|im_end|>",
    ]
    counts = json.loads(capsys.readouterr().out)
    assert counts == {
        "answers": 2,
        "secrets taken out": 1,
        "left out: shares 13 words with a benchmark": 1,
        "left out: empty": 1,
        "left out: more than 4096 tokens": 1,
        "left out: seen before": 1,
    }


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([{"messages": [ASK, ANSWER]}, "", "{"], "Line 3 of"),
        ([{"messages": []}], "Line 1 of"),
        ([{"text": "x"}], "required field `messages`"),
        ([{"messages": [{"role": "tool", "content": "x"}]}], "'tool'"),
        ([{"messages": [{"role": "user", "content": 5}]}], "Expected `str`"),
        ([{"messages": [ASK]}], "gave no answer"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_written(
    lines: list[object], says: str, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert learn(base, tmp_path, *lines) == 1
    said = capsys.readouterr().err
    assert says in said
    assert said.count("\n") == 1
    assert not (tmp_path / "examples").exists()


def test_a_base_without_a_form_for_conversations_says_so(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    for name in ("config.json", "model.safetensors"):
        (plain / name).symlink_to(base / name)
    text = (base / "tokenizer.json").read_text()
    (plain / "tokenizer.json").write_text(text.replace("<|fim_middle|>", "<|other|>"))
    assert learn(plain, tmp_path, {"messages": [ASK, ANSWER]}) == 1
    assert "no form for conversations" in capsys.readouterr().err


def test_folders_of_examples_are_learnt_together(tmp_path: Path) -> None:
    parts = [[Sequence(np.arange(n + 3), n) for n in range(start, start + 4)] for start in (0, 7)]
    for name, part in zip("ab", parts, strict=True):
        store(tmp_path / name, part)
    together = Examples(tmp_path / "a", "x") + Examples(tmp_path / "b", "x")
    assert [(e.ids.tolist(), e.first) for e in together] == [
        (e.ids.tolist(), e.first) for part in parts for e in part
    ]
