"""What the diffusion recipe makes, on its way to the engine: by the commands that a user runs, on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks import faults_models
from model import layout, loading
from model.adapters import read_team_adapter
from model.checkpoints import open_checkpoint
from model.generator import Generator
from model.schema import FillRequest, Limits, ScoreRequest
from model.tokens import encode_text, load_tokenizer
from training import cli, scratch
from training.attention import MaskedAttention, dense, noisy_and_clean
from training.edits import ids_of
from training.examples import store
from training.gated import checkpoint_sha256
from training.layouts import Sequence
from training.models import write_model
from training.network import network
from training.recipe import Diffusion

PACKAGE = Path(cli.__file__).parent
RECIPE = (
    'kind = "diffusion"\ncontext = 64\nsequences = 2\nsteps = {steps}\ninfill = {infill}\nlr = 5e-3\nlr_warmup = 2\n'
    "noise_warmup = 2\ndecay_steps = 4\nema = 0.0\n"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random base, a corpus, and what a few steps of diffusion and of its twin made of the base."""
    folder = tmp_path_factory.mktemp("made")
    texts = [path.read_text("utf-8") for path in sorted(PACKAGE.glob("*.py"))]
    scratch.write(folder / "base", texts, vocab=600, layers=2, width=64, context=512, seed=0)
    (folder / "base" / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    (folder / "sets").mkdir()
    (folder / "sets" / "set.jsonl").write_text(
        json.dumps({"prompt": "Return the sum of two numbers."}) + "\n"
    )
    train(folder, "base", "corpus", "--source", "ours", str(PACKAGE), "Apache-2.0")
    recipe = RECIPE.format(steps=12, infill=0.5)
    for name, more in (
        ("cpt", ""),
        ("causal", "causal = true\nar_weight = 1.0\n"),
        ("twin", 'objective = "ar"\n'),
    ):
        (folder / f"{name}.toml").write_text(recipe + more)
        train(folder, "base", str(folder / f"{name}.toml"), "--run", str(folder / name))
    return folder


def train(folder: Path, base: str, *arguments: str) -> None:
    common = ["--base", str(folder / base), "--corpus", str(folder / "corpus"), "--threads", "1"]
    assert (
        cli.main(
            [*arguments, *common, *([] if "export" in arguments else ["--benchmarks", str(folder / "sets")])]
        )
        == 0
    )


def opened(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator:
    monkeypatch.setenv("DIFFCODER_HOME", str(tmp_path / "cache"))
    return Generator.load(str(folder), threads=1)


@pytest.mark.parametrize("name", ["cpt", "causal"])
def test_the_engine_denoises_with_what_diffusion_made(
    name: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = opened(made / name / "model", tmp_path, monkeypatch)
    assert engine.verify_default == ("ar" if name == "causal" else "none")
    request = FillRequest(prefix="import os\n\ndef main(", limits=Limits(max_tokens=9, verify="none"))
    answer = engine.fill(request)
    assert answer.usage.tokens > 1
    assert "<|" not in answer.text
    if name == "causal":  # with ar_weight: its own clean rows verify what its masks draft
        verified = engine.fill(FillRequest(prefix="def main(", limits=Limits(max_tokens=30)))
        assert verified.usage.forwards <= verified.usage.tokens + 3  # the end that is looked for takes two


@pytest.mark.parametrize("name", ["cpt", "causal"])
def test_the_engine_reads_a_made_model_as_it_was_trained(
    name: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scores of a text, one place of a block masked at a time, are those of `[noisy | clean]` rows."""
    monkeypatch.setenv("DIFFCODER_HOME", str(tmp_path / "cache"))
    folder, text = made / name / "model", "import numpy as np\n\n\nclass Model:\n    pass\n"
    loaded = loading.load(str(folder), form="fp32")
    engine = Generator(loaded)
    scores = [token.logprob for token in engine.score(ScoreRequest(text=text, mode="diffusion")).tokens]
    prompt = ids_of(layout.infill(loaded.profile, "", "", (), 64), loaded.tokenizer)
    ids = torch.tensor([*prompt, *encode_text(loaded.tokenizer, text)])
    length, mask = len(ids) // 4 * 4, scratch.marks_of(made / "base")["<|fim_pad|>"]
    ids, scores = ids[:length], scores[: length - len(prompt)]
    source = open_checkpoint(folder)
    _, net = network(Diffusion(), source.config, source.tensor)
    seen = MaskedAttention(dense(noisy_and_clean(length, 4, causal=name == "causal"), 2 * length))
    wanted = torch.zeros(length)
    for place in range(4):
        noisy = ids.clone()
        noisy[place::4] = mask
        with torch.no_grad():
            rows = net.forward(net.embed(torch.cat([noisy, ids])), torch.arange(length).repeat(2), seen)
            logits = net.logits(rows[place:length:4])
        logits[:, mask] = -torch.inf
        wanted[place::4] = logits.log_softmax(-1).gather(1, ids[place::4, None])[:, 0]
    assert scores == pytest.approx(wanted[len(prompt) :].tolist(), abs=1e-3)


def test_the_twin_stays_a_base_and_can_be_made_to_denoise(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = opened(made / "twin" / "model", tmp_path, monkeypatch)
    assert (engine.network.diffuses, engine.verify_default) == (False, "ar")
    assert engine.fill(FillRequest(prefix="def main(", limits=Limits(max_tokens=3))).usage.tokens
    train(made, "twin/model", str(made / "cpt.toml"), "--run", str(tmp_path / "run"))
    assert opened(tmp_path / "run" / "model", tmp_path, monkeypatch).network.diffuses


def test_a_made_model_has_its_bases_tokenizer(made: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (made / "cpt" / "model" / name).read_bytes() == (made / "base" / name).read_bytes()


def test_low_rank_weights_on_a_made_model_become_a_model(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's model is the one that was trained: base and pairs apart give the same scores."""
    base, run = made / "cpt" / "model", tmp_path / "run"
    ids = np.load(made / "corpus" / "tokens.npy")[:3200].astype(np.int64).reshape(32, 100)
    store(tmp_path / "examples", [Sequence(row, 40) for row in ids])
    (tmp_path / "lora.toml").write_text(RECIPE.format(steps=12, infill=0.0) + 'data = "examples"\nrank = 4\n')
    train(
        made,
        "cpt/model",
        str(tmp_path / "lora.toml"),
        "--run",
        str(run),
        "--examples",
        str(tmp_path / "examples"),
    )
    (run / "adapter.safetensors").unlink()  # a stopped run may have none
    train(made, "cpt/model", "export", "--run", str(run))
    source, whole = open_checkpoint(base), open_checkpoint(run / "model")
    read_team_adapter(run / "adapter.safetensors", source.config, checkpoint_sha256(base))
    parameters, apart = network(Diffusion(rank=4), source.config, source.tensor)
    for name, value in load_file(run / "adapter.safetensors").items():
        parameters[name].data = value.float()
    _, together = network(Diffusion(), whole.config, whole.tensor)
    _, before = network(Diffusion(), source.config, source.tensor)
    rows, mask = torch.arange(30), MaskedAttention(torch.ones(30, 30, dtype=torch.bool))
    with torch.no_grad():
        wanted, found, old = (
            net.logits(net.forward(net.embed(rows), rows, mask)) for net in (apart, together, before)
        )
    assert torch.allclose(wanted, found, atol=1e-3)
    assert not torch.allclose(wanted, old, atol=0.05)
    engine = opened(run / "model", tmp_path, monkeypatch)
    assert engine.network.diffuses
    assert engine.fill(
        FillRequest(prefix="def main(", limits=Limits(max_tokens=5, verify="none"))
    ).usage.tokens


def test_the_export_of_a_run_of_all_weights_is_what_the_run_wrote(made: Path) -> None:
    folder = made / "cpt" / "model"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    train(made, "base", "export", "--run", str(made / "cpt"))
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert before.keys() == after.keys()
    assert before["model.safetensors"] == after["model.safetensors"]
    assert (
        json.loads(after["config.json"])["diffcoder"].items()
        <= json.loads(before["config.json"])["diffcoder"].items()
    )


def test_text_cannot_stand_for_a_mask(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.toml").write_text(RECIPE.format(steps=1, infill=0.0) + "mask_token = 300\n")
    with pytest.raises(AssertionError):
        train(made, "base", str(tmp_path / "text.toml"), "--run", str(tmp_path / "run"))
    assert "mask_token 300 is none of the base's special tokens" in capsys.readouterr().err


def test_what_is_made_from_a_gguf_file_has_its_tokenizer_and_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIFFCODER_HOME", str(tmp_path / "cache"))
    faults_models.write_tiny_gguf(tmp_path / "base.gguf")
    base = open_checkpoint(tmp_path / "base.gguf")
    made = {"objective": "ar", "block": 4, "causal": True, "mask_token": 0, "end_token": 0}
    write_model(tmp_path / "model", base, base.tensor, made)
    loaded, again = loading.load(str(tmp_path / "model"), form="fp32"), open_checkpoint(tmp_path / "model")
    assert again.config == base.config
    assert all(torch.equal(again.tensor(name), base.tensor(name)) for name in base.names())
    text = "in a <|endoftext|> — ∀ 🙂\r\n"
    assert encode_text(loaded.tokenizer, text) == encode_text(load_tokenizer(base), text)
    assert loaded.profile.ends == ("<|endoftext|>",)
