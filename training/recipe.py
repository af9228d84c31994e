"""A recipe: every knob of a training run, typed, read from a TOML file. Unknown fields are errors."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from model.schema import DiffcoderError
from training import bf16, layouts

RECIPES = Path(__file__).parent / "recipes"

# The upper bounds keep out infinity, and numbers that nothing can be made of.
_MOST = 2**31 - 1
Count = Annotated[int, msgspec.Meta(ge=0, le=_MOST)]
Some = Annotated[int, msgspec.Meta(ge=1, le=_MOST)]
Rank = Annotated[int, msgspec.Meta(ge=1, le=4096)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Factor = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Size = Annotated[float, msgspec.Meta(gt=0, le=1e9)]
Decay = Annotated[float, msgspec.Meta(ge=0, lt=1)]


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What every kind of run has. `kind` in the file says which kind it is."""

    sequences: Annotated[int, msgspec.Meta(ge=1, le=65536)] = 1
    """Sequences a step."""
    infill: Share = 0.5
    """Share of sequences in the infill layout."""
    noise_warmup: Count = 100
    """Steps over which the ceiling of the masking rate rises to 1 (gated and diffusion recipes)."""
    noise_initial: Share = 0.1
    """The ceiling at the first step (likewise)."""
    lr: Size = 1e-3
    """Peak learning rate (AdamW, no weight decay)."""
    lr_warmup: Count = 20
    """Steps of linear warm-up."""
    steps: Some = 1000
    """Planned steps."""
    decay_steps: Count = 300
    """The last steps, over which the learning rate falls linearly to a twentieth."""
    betas: tuple[Decay, Decay] = (0.9, 0.98)
    """AdamW's averages."""
    clip: Size = 1.0
    """Largest norm of the gradient."""
    ema: Share = 0.98
    """Decay of the average of the weights that is evaluated and exported."""
    seed: Count = 0
    """Seed of the start and, with the step, of everything drawn at that step."""

    def rate(self, step: int) -> float:
        """The learning rate at `step`, from 0."""
        rise = min(1.0, (step + 1) / max(1, self.lr_warmup))
        left = (self.steps - step) / max(1, self.decay_steps)
        return self.lr * rise * max(0.05, min(1.0, left))


class Drafts(Recipe, frozen=True, kw_only=True):
    """What a recipe has whose masked blocks are asked for what the base would write there (`objective.py`)."""

    decay: Factor = 0.9
    """Loss weight from one place to the next."""
    off_weight: Factor = 0.25
    """Loss weight behind the first place where the base disagrees with the text."""
    soft: Share = 0.0
    """Share of the base's own distribution in the target of a place that is asked for the base's choice."""
    missed: Share = 1.0
    """Factor on the loss of places behind the first that the drafter itself gets wrong in a wholly masked block."""


class Gated(Drafts, frozen=True, kw_only=True, tag="gated"):
    """A gated block-diffusion adapter on a frozen autoregressive base (`drafting.py`)."""

    languages: dict[str, Factor] = {}
    """Share of sequences in each language; empty: documents are drawn regardless of language."""
    rank: Rank = 32
    """Rank of the low-rank pair on every linear."""
    scale: Size = 2.0
    """Factor on the low-rank product."""
    chain: Count = 0
    """Inner width of the head that tells a noisy row the token at its own place (`model.decoder.Chain`); 0: none."""
    shift: Literal[0, 1] = 1
    """1: a noisy row predicts the token after it, as the base does; 0: its own."""
    draft_vocab: Some = 32768
    """How many token ids the drafting head knows: specials, single bytes, then the most frequent."""
    blocks: Annotated[tuple[Some, ...], msgspec.Meta(min_length=1)] = (3, 3, 4)
    """Rows of a noisy block, one number drawn for each sequence."""
    length: tuple[Some, Some] = (128, 320)
    """Shortest and longest clean sequence, tokens."""
    noisy_rows: Some = 384
    """Noisy rows over each clean sequence."""
    together: Some = 1
    """Clean sequences of one pass; a step has `sequences` passes."""
    easy: Factor = 2.0
    """Preference for anchors from where the base agrees with the text (`objective.choose_anchors`)."""
    generated: Share = 0.0
    """Share of sequences that the base wrote itself (`continuations.py`)."""
    edits: Share = 0.0
    """Share of sequences that are edits, in the engine's prompt (`edits.py`); blocks lie in the answer alone."""
    partial: Share = 0.15
    """Share of partly masked blocks."""
    first_weight: Factor = 0.3
    """Loss weight of the place right after the anchor."""
    partial_weight: Factor = 0.5
    """Loss weight of a masked place in a partly masked block."""
    precision: Literal["auto", "int8", "bf16"] = "auto"
    """What products are computed in, the heads' scores aside; "auto": bf16 where the processor multiplies it fast, else
    int8."""

    def products(self) -> Literal["int8", "bf16"]:
        """The precision on this machine."""
        if self.precision != "auto":
            return self.precision
        return "bf16" if bf16.is_fast() else "int8"


class Team(Drafts, frozen=True, kw_only=True, tag="team"):
    """Low-rank weights on a frozen base that learn one repository (`team.py`)."""

    rank: Rank = 16
    """Rank of the low-rank pair on every linear."""
    scale: Size = 2.0
    """Factor on the low-rank product."""
    length: Annotated[int, msgspec.Meta(ge=16)] = 512
    """Longest window of a file, tokens."""
    edits: Share = 0.1
    """Share of sequences that are edits from the repository's history, where there are any."""
    block: Some = 3
    """Rows of a noisy block."""
    noisy_rows: Some = 48
    """Noisy rows over each clean sequence, where the base has a drafting adapter."""
    noisy_weight: Factor = 0.2
    """Weight of the noisy rows' loss beside that of the clean ones."""
    epochs: Size = 3.0
    """How often the repository is read at most, where the time allows it."""


class Diffusion(Recipe, frozen=True, kw_only=True, tag="diffusion"):
    """Block diffusion over packed documents, `[noisy | clean]`, of all weights or of low-rank ones (`diffusion.py`)."""

    objective: Literal["diffusion", "ar"] = "diffusion"
    """"ar": plain next-token training on the same packs, for comparison (the AR twin)."""
    context: Some = 8192
    """Tokens of a packed sequence."""
    block: Some = 4
    """Places of a block; blocks lie at absolute multiples of it."""
    clipped: bool = True
    """Whether the masking rate is clipped from below at 1/block."""
    document_mask: bool = True
    """Whether documents of a pack are kept apart; false is the paper's way."""
    causal: bool = False
    """Whether clean rows stay causal, as in an autoregressive model, or see their whole block."""
    ar_weight: Factor = 0.0
    """Weight of a next-token loss on the clean rows (causal only): keeps a trained model able to verify."""
    ends: Count = 4
    """Most end tokens after a document."""
    mask_token: Count | None = None
    """The token that stands for a masked place; none: the mask of the base's family (`model.profiles`)."""
    end_token: Count | None = None
    """The token that ends a document; none: the first that ends a text in the base's family."""
    data: Literal["files", "examples"] = "files"
    """"examples": edits and answers whose prompt is never masked (`edits.py`), in place of the corpus's files."""
    rank: Annotated[int, msgspec.Meta(ge=0, le=4096)] = 0
    """Rank of low-rank pairs on every linear of a frozen base; 0: every weight of the base is trained."""
    scale: Size = 2.0
    """Factor on the low-rank product."""
    form: Literal["fp32", "int8", "nf4"] = "fp32"
    """How a frozen base holds its linears; "nf4" takes bitsandbytes, 4.13 bits a weight."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """What products are computed in, while weights and their sums stay fp32; "auto": bf16 on a GPU, fp32 elsewhere."""
    recompute: bool = False
    """Whether each layer is computed again in the backward pass, to keep its input alone (gradient checkpointing)."""


Kinds = Gated | Team | Diffusion


def load(name: str) -> Kinds:
    """A recipe by name (this package's own) or by the path of a TOML file."""
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise DiffcoderError(
            "no_recipe", f"There is no recipe {name!r}: use one of {known}, or a .toml file's path."
        )
    try:
        recipe: Kinds = msgspec.convert(tomllib.loads(path.read_text("utf-8")), Kinds)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise DiffcoderError("bad_recipe", f"{path.name} cannot be used: {error}.") from error
    if (reason := _contradiction(recipe)) is not None:
        raise DiffcoderError("bad_recipe", f"{path.name} cannot be used: {reason}.")
    return recipe


def _contradiction(recipe: Kinds) -> str | None:
    """Why values that are sensible each do not go together."""
    match recipe:
        case Gated():
            return _gated_contradiction(recipe)
        case Team() if recipe.noisy_rows < recipe.block:
            return "noisy_rows must hold a block"
        case Team() if recipe.edits == 1:
            return "edits leave nothing of the repository's files: less than 1"
        case Diffusion() if recipe.ar_weight and not recipe.causal:
            return "ar_weight needs causal = true"
        case Diffusion() if recipe.form != "fp32" and not recipe.rank:
            return f"form {recipe.form} is of a frozen base, which needs a rank"
        case Diffusion() if recipe.objective == "ar" and recipe.context < 2:
            return "a context of 1 holds no next token"
    return None


def _gated_contradiction(recipe: Gated) -> str | None:
    block, shortest = max(recipe.blocks), recipe.length[0]
    learnt = layouts.least_learnt(shortest, layouts.ENDS if recipe.infill else None)
    if shortest > recipe.length[1]:
        return "length is shortest, longest"
    if learnt <= block + recipe.shift:
        return (
            f"a sequence of {shortest} tokens (length) may leave only {max(0, learnt)} to learn from, too few for a"
            f" block of {block}"
        )
    if min(recipe.blocks) <= recipe.shift:
        return "with shift = 1 the first place of a block is the base's, so blocks need 2 rows at least"
    if recipe.noisy_rows < block:
        return f"noisy_rows must hold a block of {block}"
    if recipe.languages and not sum(recipe.languages.values()):
        return "languages have no share at all"
    if recipe.generated + recipe.edits > 1:
        return "generated and edits exceed 1"
    return None
