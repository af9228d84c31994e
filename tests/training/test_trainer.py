"""A run of a tiny base: it learns, it resumes to the last bit, and what goes wrong costs nothing."""

import json
import re
import shutil

import msgspec
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from model.schema import DiffcoderError
from training import cli
from training.corpus import Corpus
from training.drafting import Drafting, export_checkpoint
from training.examples import Examples, store
from training.layouts import Sequence
from training.progress import HeldOut
from training.recipe import RECIPES, Gated, load
from training.trainer import Trainer, write_atomically

RECIPE = Gated(
    rank=4,
    shift=1,
    draft_vocab=200,
    blocks=(3, 4),
    length=(40, 60),
    sequences=2,
    noisy_rows=48,
    infill=0.0,
    noise_warmup=3,
    lr_warmup=2,
    steps=5,
    decay_steps=2,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Documents that count up from a random start: easy to learn."""
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    documents = [(start + np.arange(120)) % 250 for start in rng.integers(0, 250, 12)]
    np.save(folder / "tokens.npy", np.concatenate(documents).astype(np.uint32))
    np.save(folder / "documents.npy", np.arange(0, 121 * 12, 120))
    records = [{"held_out": n == 0, "language": "python"} for n in range(12)]
    (folder / "records.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    (folder / "corpus.json").write_text(json.dumps({"vocabulary": {"size": 300, "always": [299]}}))
    return Corpus(folder)


def trainer(tiny_base, corpus, run, recipe=RECIPE, resume=False, **further):
    ids = np.asarray(corpus.document(0)[:60], dtype=np.int64)
    held_out = HeldOut([Sequence(ids, 8)], [Sequence(ids, 30)])
    return Trainer(recipe, Drafting(recipe, tiny_base, corpus, run, held_out, **further), run, resume)


@pytest.fixture
def edits(tmp_path):
    """Prompts of 50 tokens, answers of 10."""
    store(tmp_path / "edits", [Sequence((start + np.arange(60)) % 250, 49) for start in range(0, 200, 10)])
    return Examples(tmp_path / "edits", "x")


def checkpoint(run):
    with safe_open(run / "checkpoint.safetensors", "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def test_a_run_stopped_after_every_step_equals_one_that_was_not(tiny_base, corpus, tmp_path):
    trainer(tiny_base, corpus, tmp_path / "whole").train(minutes=60)
    for step in range(RECIPE.steps):
        trainer(tiny_base, corpus, tmp_path / "parts", resume=step > 0).train(minutes=0)
    whole, facts = checkpoint(tmp_path / "whole")
    parts, part_facts = checkpoint(tmp_path / "parts")
    assert facts["step"] == part_facts["step"] == str(RECIPE.steps)
    assert whole.keys() == parts.keys()
    for name, value in whole.items():
        assert np.array_equal(value.numpy(), parts[name].numpy()), name


def test_of_an_edit_the_answer_alone_is_learnt(tiny_base, corpus, edits, tmp_path):
    recipe = msgspec.structs.replace(RECIPE, edits=1.0, blocks=(3,))
    task = Drafting(recipe, tiny_base, corpus, tmp_path / "run", HeldOut([], []), edits=edits)
    loss = task.loss(np.random.default_rng(0), 0, 0)
    assert loss.rows == 3 * (60 - 49 - 3 - 1)  # anchors from `first` to where a block and its shift still fit
    loss.total.backward()
    assert task.parameters["layers.0.q.lora_B"].grad.norm() > 0


def test_shares_of_edits_and_continuations_are_those_of_the_recipe(tiny_base, corpus, edits, tmp_path):
    store(tmp_path / "written", [Sequence(np.arange(40), 20)])
    written = Examples(tmp_path / "written", "x")
    recipe = msgspec.structs.replace(RECIPE, generated=0.5, edits=0.3)
    task = Drafting(recipe, tiny_base, corpus, tmp_path / "run", HeldOut([], []), written, edits=edits)
    rng = np.random.default_rng(0)
    firsts = np.array([task._draw(rng).first for _ in range(2000)])
    assert [np.mean(firsts == first) for first in (20, 49, 8)] == pytest.approx([0.5, 0.3, 0.2], abs=0.04)


def test_a_run_with_edits_resumes_to_the_bit(tiny_base, corpus, edits, tmp_path):
    recipe = msgspec.structs.replace(RECIPE, edits=0.5)
    trainer(tiny_base, corpus, tmp_path / "whole", recipe, edits=edits).train(minutes=60)
    for step in range(recipe.steps):
        trainer(tiny_base, corpus, tmp_path / "parts", recipe, step > 0, edits=edits).train(minutes=0)
    whole, facts = checkpoint(tmp_path / "whole")
    parts, part_facts = checkpoint(tmp_path / "parts")
    assert facts["rows"] == part_facts["rows"]
    assert all(np.array_equal(value.numpy(), parts[name].numpy()) for name, value in whole.items())


def test_edits_are_learnt_where_the_recipe_and_the_command_both_say_so(tiny_base, corpus, edits, tmp_path):
    with_edits = msgspec.structs.replace(RECIPE, edits=0.1)
    with pytest.raises(DiffcoderError, match=r"commits.*--examples"):
        trainer(tiny_base, corpus, tmp_path / "run", with_edits)
    with pytest.raises(DiffcoderError, match="set edits in it"):
        trainer(tiny_base, corpus, tmp_path / "run", edits=edits)
    with pytest.raises(DiffcoderError, match=r"write.*--written"):
        trainer(tiny_base, corpus, tmp_path / "run", msgspec.structs.replace(RECIPE, generated=0.5))
    store(tmp_path / "short", [Sequence(np.arange(50), 48)])
    with pytest.raises(DiffcoderError, match="too short to learn from"):
        trainer(tiny_base, corpus, tmp_path / "run", with_edits, edits=Examples(tmp_path / "short", "x"))


def test_the_adapter_of_a_checkpoint_is_the_one_that_the_run_exported(tiny_base, corpus, tmp_path):
    run = tmp_path / "run"
    trainer(tiny_base, corpus, run).train(minutes=60)
    with safe_open(run / "adapter.safetensors", "pt") as file:
        exported = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    (run / "adapter.safetensors").unlink()
    with safe_open(export_checkpoint(RECIPE, tiny_base, run), "pt") as file:
        assert file.metadata()["step"] == str(RECIPE.steps)
        assert exported.keys() == set(file.keys())
        assert all(
            np.array_equal(value.numpy(), file.get_tensor(name).numpy()) for name, value in exported.items()
        )


@pytest.mark.parametrize("further", [{}, {"soft": 0.5, "missed": 0.3}])
def test_it_learns(tiny_base, corpus, tmp_path, further):
    recipe = msgspec.structs.replace(RECIPE, steps=60, lr=1e-2, ema=0.9, rank=8, **further)
    run = tmp_path / "run"
    trainer(tiny_base, corpus, run, recipe).train(minutes=60)
    losses = [line["loss"] for line in map(json.loads, (run / "log.jsonl").open()) if "loss" in line]
    assert losses[-1] < 0.9 * losses[0]


def test_a_run_is_not_overwritten_nor_shared(tiny_base, corpus, tmp_path):
    run = tmp_path / "run"
    first = trainer(tiny_base, corpus, run)
    with pytest.raises(DiffcoderError, match="Another process"):
        trainer(tiny_base, corpus, run)
    first.train(minutes=0)
    with pytest.raises(DiffcoderError, match="--resume"):
        trainer(tiny_base, corpus, run)


def test_a_gradient_that_is_not_finite_stops_the_run_and_keeps_the_last_checkpoint(
    tiny_base, corpus, tmp_path
):
    run = tmp_path / "run"
    trainer(tiny_base, corpus, run).train(minutes=0)
    before, facts = checkpoint(run)
    broken = trainer(tiny_base, corpus, run, resume=True)
    broken.parameters["mask_embedding"].data[0] = float("nan")
    with pytest.raises(DiffcoderError, match="step 1"):
        broken.train(minutes=60)
    after, same = checkpoint(run)
    assert facts == same
    assert all(np.array_equal(before[name].numpy(), after[name].numpy()) for name in before)


def breaking_at(step, made):
    """The run with a loss that is no number at that step and ever after it."""
    loss = made.task.loss

    def breaking(rng, at, number):
        found = loss(rng, at, number)
        return found._replace(total=found.total * (float("inf") if at >= step else 1.0))

    made.task.loss = breaking
    return made


def test_a_loss_that_is_not_finite_stops_the_run_before_it_does_harm(tiny_base, corpus, tmp_path):
    run = tmp_path / "run"
    trainer(tiny_base, corpus, run).train(minutes=0)
    before, _ = checkpoint(run)
    broken = breaking_at(1, trainer(tiny_base, corpus, run, resume=True))
    with pytest.raises(DiffcoderError, match=r"step 1; the weights before it are kept .* lower lr"):
        broken.train(minutes=60)
    after, _ = checkpoint(run)
    assert all(np.array_equal(value.numpy(), after[name].numpy()) for name, value in before.items())


def test_where_nothing_is_saved_yet_the_weights_before_the_failure_are_kept(tiny_base, corpus, tmp_path):
    run = tmp_path / "run"
    with pytest.raises(DiffcoderError, match=r"at step 0, with nothing saved"):
        breaking_at(0, trainer(tiny_base, corpus, run)).train(minutes=60)
    assert not (run / "checkpoint.safetensors").exists()
    with pytest.raises(DiffcoderError, match=r"at step 3; the weights before it .* another folder"):
        breaking_at(3, trainer(tiny_base, corpus, run)).train(minutes=60)
    for step in range(3):
        trainer(tiny_base, corpus, tmp_path / "good", resume=step > 0).train(minutes=0)
    (kept, facts), (good, _) = checkpoint(run), checkpoint(tmp_path / "good")
    assert facts["step"] == "3"
    assert all(np.array_equal(value.numpy(), kept[name].numpy()) for name, value in good.items())
    assert export_checkpoint(RECIPE, tiny_base, run).is_file()


def test_a_checkpoint_is_not_replaced_by_weights_that_would_fail_again(tiny_base, corpus, tmp_path):
    run = tmp_path / "run"
    trainer(tiny_base, corpus, run).train(minutes=0)
    with pytest.raises(DiffcoderError, match=r"at step 3; the last good checkpoint, of step 1, .*--resume"):
        breaking_at(3, trainer(tiny_base, corpus, run, resume=True)).train(minutes=60)
    assert checkpoint(run)[1]["step"] == "1"


def test_a_run_goes_on_with_its_own_base_and_shapes_alone(tiny_base, corpus, tmp_path):
    run, other = tmp_path / "run", tmp_path / "other"
    trainer(tiny_base, corpus, run).train(minutes=0)
    with pytest.raises(DiffcoderError, match="another recipe or base"):
        trainer(tiny_base, corpus, run, msgspec.structs.replace(RECIPE, rank=8), resume=True)
    shutil.copytree(tiny_base, other)
    weights = load_file(other / "model.safetensors")
    save_file({name: value + 0.01 for name, value in weights.items()}, other / "model.safetensors")
    with pytest.raises(DiffcoderError, match="another recipe or base"):
        trainer(other, corpus, run, resume=True)
    with pytest.raises(DiffcoderError, match="another base"):
        export_checkpoint(RECIPE, other, run)
    trainer(tiny_base, corpus, run, msgspec.structs.replace(RECIPE, lr=1e-4), resume=True)
    changed = [line["changed"] for line in map(json.loads, (run / "log.jsonl").open()) if "changed" in line]
    assert changed == [{"lr": [1e-3, 1e-4]}]


def test_an_adapter_to_start_from_is_for_this_base_and_recipe(tiny_base, corpus, tmp_path):
    trainer(tiny_base, corpus, tmp_path / "run").train(minutes=60)
    start, held_out = tmp_path / "run" / "adapter.safetensors", HeldOut([], [])

    def begun(base, recipe):
        return Drafting(recipe, base, corpus, tmp_path / "next", held_out, start=start)

    begun(tiny_base, RECIPE)
    with pytest.raises(DiffcoderError, match="another rank"):
        begun(tiny_base, msgspec.structs.replace(RECIPE, rank=8))
    shutil.copytree(tiny_base, tmp_path / "other")
    weights = load_file(tmp_path / "other" / "model.safetensors")
    save_file(
        {name: value + 0.01 for name, value in weights.items()}, tmp_path / "other" / "model.safetensors"
    )
    with pytest.raises(DiffcoderError, match="base"):
        begun(tmp_path / "other", RECIPE)


@pytest.mark.parametrize(
    "text",
    [
        'kind = "gated"\nsequences = 0\n',
        'kind = "gated"\nblocks = []\n',
        'kind = "gated"\nlength = [320, 128]\n',
        'kind = "gated"\nlength = [5, 8]\nblocks = [30]\ninfill = 0.0\n',
        'kind = "gated"\nlength = [38, 60]\nblocks = [20]\n',  # room left to right, none in the infill layout
        'kind = "gated"\nnoisy_rows = 4\nblocks = [8]\n',
        'kind = "gated"\nblocks = [1]\n',
        'kind = "gated"\nlanguages = {python = 0}\n',
        'kind = "gated"\nlanguages = {python = inf}\n',
        'kind = "gated"\nbetas = [1.5, 2.0]\n',
        'kind = "gated"\nlr = inf\n',
        'kind = "gated"\nlr = nan\n',
        'kind = "team"\nlength = 1\n',
        'kind = "team"\nnoisy_rows = 2\n',
        'kind = "team"\nedits = 1.0\n',
        'kind = "team"\nseed = 99999999999999999999\n',
        'kind = "gated"\nrank = 1000000000000\n',
        'kind = "diffusion"\nsequences = 100000000000000000000\n',
        'kind = "diffusion"\nobjective = "ar"\ncontext = 1\nblock = 1\n',
        'kind = "gated"\ngenerated = 0.6\nedits = 0.5\n',
        'kind = "team"\nlr = -1.0\n',
        'kind = "diffusion"\nblock = 0\n',
        'kind = "diffusion"\ninfill = 2.0\n',
        'kind = "team"\n# \xe9\n'.encode("latin-1"),
    ],
)
def test_values_that_make_no_sense_are_said_in_a_sentence(tmp_path, text):
    path = tmp_path / "mine.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DiffcoderError, match=r"mine\.toml cannot be used"):
        load(str(path))


def test_a_corpus_of_which_nothing_holds_a_block_ends_in_a_sentence(tiny_base, corpus, tmp_path):
    recipe = msgspec.structs.replace(RECIPE, blocks=(150,), noisy_rows=150, length=(200, 200))
    with pytest.raises(DiffcoderError, match="none was long enough for a block of 150"):
        trainer(tiny_base, corpus, tmp_path / "run", recipe).train(minutes=60)


def test_a_damaged_file_of_a_run_is_named_with_what_to_do(tiny_base, corpus, tmp_path, capsys):
    run = tmp_path / "run"
    trainer(tiny_base, corpus, run).train(minutes=0)
    for name, way in (
        ("checkpoint.safetensors", "put a copy in its place"),
        ("draft_vocab.npy", "put a copy in its place"),
        ("recipe.json", "remove it, and --resume writes it anew"),
    ):
        whole = (run / name).read_bytes()
        (run / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(DiffcoderError, match=rf"{name} cannot be read .*{way}"):
            trainer(tiny_base, corpus, run, resume=True)
        assert cli.main(["export", "--base", str(tiny_base), "--run", str(run)]) == 1
        assert re.search(rf"{name} cannot be read .*{way}", capsys.readouterr().err)
        (run / name).write_bytes(whole)
    (run / "recipe.json").unlink()
    trainer(tiny_base, corpus, run, resume=True).train(minutes=0)
    assert export_checkpoint(RECIPE, tiny_base, run).is_file()


def test_a_full_disk_keeps_the_last_good_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, b"good")
    (tmp_path / "file.part").mkdir()  # what stands for the new file cannot be written
    with pytest.raises(DiffcoderError, match="last good one is kept"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"good"


def test_a_log_that_cannot_be_written_costs_no_step(tiny_base, corpus, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(DiffcoderError, match=r"log\.jsonl could not be written.*goes on from step 5"):
        trainer(tiny_base, corpus, run).train(minutes=60)
    assert checkpoint(run)[1]["step"] == "5"


def test_steps_that_a_kill_undid_are_logged_once(tiny_base, corpus, tmp_path):
    run = tmp_path / "run"
    trainer(tiny_base, corpus, run).train(minutes=0)  # a step
    with (run / "log.jsonl").open("a") as log:
        log.write('{"step": 2, "loss": 1.0}\n{"step": 3, "loss": 1.0}\n{"evaluation": 3}\n{"step": 4, "lo')
    trainer(tiny_base, corpus, run, resume=True).train(minutes=60)
    lines = [json.loads(line) for line in (run / "log.jsonl").open()]
    assert [line.get("step", line.get("evaluation")) for line in lines] == [1, 5]
    assert not any(line.get("loss") == 1.0 for line in lines)


def test_recipes_load_and_unknown_fields_are_errors(tmp_path):
    for path in RECIPES.glob("*.toml"):
        load(path.stem)
    assert load("gated").rank == 16
    (tmp_path / "both.toml").write_text('kind = "diffusion"\nar_weight = 1.0\n')
    with pytest.raises(DiffcoderError, match="causal"):
        load(str(tmp_path / "both.toml"))
    (tmp_path / "odd.toml").write_text('kind = "gated"\nrnak = 3\n')
    with pytest.raises(DiffcoderError, match="rnak"):
        load(str(tmp_path / "odd.toml"))
    with pytest.raises(DiffcoderError, match="gated"):
        load("nothing")
    (tmp_path / "broken.toml").write_text("rank = \n")
    with pytest.raises(DiffcoderError, match="broken"):
        load(str(tmp_path / "broken.toml"))
