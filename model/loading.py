"""Model name -> weights in memory: converts a checkpoint once into the cache, then reads it in seconds.

Forms: "int8" (one scale an output channel, for running on a CPU) and "fp32" (straight from the checkpoint, for tests and
training). A converted file is safetensors with fused linears: `layers.N.qkv.weight` int8 and `.scale`, likewise o,
gate_up, down and head; the embedding in fp16, read through the page cache so that only the rows in use take memory.
It is written atomically with its SHA-256 beside it, which is checked on every load. Nothing in a file is executed.
"""

from __future__ import annotations

import json
import logging
import mmap
import struct
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from model import profiles, registry, store
from model.adapters import AdapterFile, read_adapter, read_team_adapter, with_seconds
from model.checkpoints import Checkpoint, open_checkpoint, read_tensor
from model.decoder import (
    FUSED,
    Adapter,
    Chain,
    Config,
    Decoder,
    Layer,
    Linear,
    Pairs,
    first_factors,
    fused_bias,
    fused_weight,
    layer_norms,
)
from model.headers import SafetensorsHeader
from model.profiles import Profile
from model.quantise import INPUT_LEVELS, Fp32Linear, Int8Linear, quantise_weight
from model.schema import DiffcoderError
from model.tokens import TokenTable, load_tokenizer

log = logging.getLogger("diffcoder.loading")

Form = Literal["int8", "fp32"]
FORMAT = "3"  # of converted files; a file of another format is made anew
_KINDS = {torch.int8: "I8", torch.float16: "F16", torch.float32: "F32"}
_HEADER_ROOM = (1 << 20) - 8  # bytes: of ten thousand tensors
_ROWS = 256  # of a weight that is in fp32 for a moment

TWO_DIGITS = ("qkv",) if INPUT_LEVELS < 127 else ()
"""Linears whose inputs need more than 7 bits (quantise.Int8Linear): outlier channels of q, k and v cost 0.7 % of loss."""


@dataclass(frozen=True)
class Loaded:
    """Everything the generator needs of a model. What drafts is None where there is none; the decoder's linears hold the
    adapter's first factors."""

    name: str
    decoder: Decoder
    tokenizer: Tokenizer
    tokens: TokenTable
    profile: Profile
    adapter: Adapter | None
    adapter_file: Path | None
    draft_vocab_S: Tensor | None
    draft_head: Linear | None


@dataclass(frozen=True)
class Team:
    """What a team's file makes of a model: a decoder with the team's products in its weights, and the drafting adapter as
    it became along with them (None: as it was)."""

    decoder: Decoder
    adapter: Adapter | None


def load(name: str = "default", *, form: Form = "int8", adapter: Path | None = None) -> Loaded:
    """Load a model by registry name or path, with `adapter` in place of the one that ships with it.

    Raises DiffcoderError: "model_missing", "unknown_model", "corrupt_model", "unsupported_model", "bad_adapter",
    "no_space", "disk_error".
    """
    entry = registry.find(name)
    path = store.model_path(name)
    checkpoint = open_checkpoint(path)
    cached = store.converted_path(name, "tokenizer.json")
    file = adapter or shipped_adapter(name)
    gated = read_adapter(file, checkpoint.config, base_sha256(name, path)) if file else None
    pairs = gated.pairs if gated else None
    # The tokenizer's reader keeps one processor busy, the weights the others.
    with ThreadPoolExecutor(2) as pool:
        if form == "int8":
            header = pool.submit(_int8_form, name, checkpoint)
            weights = pool.submit(lambda: _int8(checkpoint.config, header.result(), pairs))
        else:
            store.verify(name)
            weights = pool.submit(_fp32, checkpoint, pairs)
        if not store.is_sealed(cached):
            store.verify(name)  # every byte, before anything is made of the file
        tokenizer = load_tokenizer(checkpoint, cached=cached)
        tokens = TokenTable(tokenizer, checkpoint.config.vocab)
        profile = profiles.find(entry.profile, checkpoint.architecture, tokens.special_ids, checkpoint.made)
        if gated is None:
            return Loaded(entry.name, weights.result(), tokenizer, tokens, profile, None, None, None, None)
        if profile.weights != "gated":
            raise DiffcoderError(
                "bad_adapter",
                f"The model {entry.name} takes no adapter (its profile is {profile.name}): leave it out.",
            )
        acting = _acting(gated, Int8Linear.of if form == "int8" else Fp32Linear)
        vocab_S = gated.draft_vocab_S
        if form == "int8":
            weight, scale = (
                _mapped(header.result(), "head.weight"),
                read_tensor(header.result(), "head.scale"),
            )
            draft_head: Linear = Int8Linear(weight[vocab_S], scale[vocab_S])
        else:
            whole = weights.result().head
            assert isinstance(whole, Fp32Linear)
            draft_head = Fp32Linear(whole.weight[vocab_S])
        return Loaded(
            entry.name, weights.result(), tokenizer, tokens, profile, acting, file, vocab_S, draft_head
        )


def shipped_adapter(name: str) -> Path | None:
    """The adapter file that comes with diffcoder for this model, if there is one."""
    path = Path(__file__).with_name("adapters") / f"{name}.safetensors"
    return path if registry.is_file_name(name) and path.is_file() else None


def load_team(name: str, file: Path, drafting: Path | None, like: Decoder) -> Team:
    """A team's adapter for the model of that name, whose drafting adapter is `drafting`; where the team's brings another
    form of it, of another file, that is left out. `like`: a decoder of this model, whose head and embedding are shared.

    The low-rank products are added to the int8 weights, which are rounded anew: a forward then costs what it does without
    them (docs/experiments.md). Raises DiffcoderError: "bad_adapter", "corrupt_model", and as `load` does.
    """
    path = store.model_path(name)
    checkpoint, base = open_checkpoint(path), base_sha256(name, path)
    team = read_team_adapter(file, checkpoint.config, base)
    adapter = pairs = None
    if drafting is not None:
        gated = read_adapter(drafting, checkpoint.config, base)
        pairs = gated.pairs
        if team.drafting and team.drafting_sha256 == store.sha256(drafting):
            adapter = _acting(with_seconds(gated, team.drafting), Int8Linear.of)
        elif team.drafting:
            log.warning(
                "the team's adapter was made beside another drafting adapter: tune again, and drafts are better"
            )
    return Team(_int8(checkpoint.config, _int8_form(name, checkpoint), pairs, team.pairs, like), adapter)


def without_team(name: str, drafting: Path | None, like: Decoder) -> Decoder:
    """The model's own decoder again, after `load_team`. Raises DiffcoderError as `load` does."""
    path = store.model_path(name)
    checkpoint = open_checkpoint(path)
    pairs = read_adapter(drafting, checkpoint.config, base_sha256(name, path)).pairs if drafting else None
    return _int8(checkpoint.config, _int8_form(name, checkpoint), pairs, like=like)


def _acting(file: AdapterFile, held: Callable[[Tensor], Linear]) -> Adapter:
    return Adapter(file.pairs, file.mask_embedding, Chain(*map(held, file.chain)) if file.chain else None)


def base_sha256(name: str, path: Path) -> str:
    """What an adapter's `base_sha256` must be for this model, which lies at `path`."""
    files = registry.find(name).files
    if files:
        return files[0].sha256
    return store.sha256(min(path.glob("*.safetensors")) if path.is_dir() else path)


def _fp32(checkpoint: Checkpoint, pairs: Pairs | None) -> Decoder:
    c = checkpoint.config
    layers = []
    for n in range(c.layers):
        parts: dict[str, Any] = {
            fused: Fp32Linear(
                fused_weight(checkpoint.tensor, n, fused),
                fused_bias(checkpoint.tensor, c, n, fused),
                first_factors(pairs[n], names) if pairs else None,
            )
            for fused, names in FUSED.items()
        }
        layers.append(Layer(**parts | layer_norms(checkpoint.tensor, c, n)))
    embedding = checkpoint.tensor("embed.weight")
    head = embedding if c.tied else checkpoint.tensor("head.weight")
    return Decoder(c, layers, embedding, checkpoint.tensor("norm.weight"), Fp32Linear(head))


def _int8_form(name: str, checkpoint: Checkpoint) -> SafetensorsHeader:
    """The converted form, made first where it is missing, damaged or another version's."""
    path = store.converted_path(name, "int8.safetensors")
    if not _is_current(path, checkpoint.config):
        with store.lock(name):
            if not _is_current(path, checkpoint.config):  # another process may have made it meanwhile
                store.verify(name)
                convert(checkpoint, path)
    return SafetensorsHeader(path)


def _int8(
    c: Config,
    header: SafetensorsHeader,
    pairs: Pairs | None,
    team: Pairs | None = None,
    like: Decoder | None = None,
) -> Decoder:
    """The decoder of a converted file. `pairs`: whose first factors its linears hold; `team`: what is added to its
    weights; `like`: a decoder of the same file, whose head and embedding are shared."""

    def linear(
        key: str, further: Tensor | None = None, added: Sequence[tuple[Tensor, Tensor]] = ()
    ) -> Int8Linear:
        bias = read_tensor(header, f"{key}.bias") if f"{key}.bias" in header.regions else None
        digits = 2 if key.endswith(TWO_DIGITS) else 1
        weight, scale = _mapped(header, f"{key}.weight"), read_tensor(header, f"{key}.scale")
        if added:
            weight, scale = _sum(weight, scale, added)
        return Int8Linear(weight, scale, bias, digits, further)

    def of_layer(place: tuple[int, str]) -> Int8Linear:
        n, fused = place
        names = FUSED[fused]
        return linear(
            f"layers.{n}.{fused}",
            first_factors(pairs[n], names) if pairs else None,
            [team[n][name] for name in names] if team else (),
        )

    places = [(n, fused) for n in range(c.layers) for fused in FUSED]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        heads = [] if like else [pool.submit(linear, "head")]
        packed = dict(zip(places, pool.map(of_layer, places), strict=True))
    layers = []
    for n in range(c.layers):
        linears: dict[str, Any] = {fused: packed[n, fused] for fused in FUSED}
        prefix = f"layers.{n}."
        norms = {
            key.removeprefix(prefix).removesuffix(".weight"): read_tensor(header, key)
            for key in header.regions
            if key.startswith(prefix) and key.endswith("norm.weight")
        }
        layers.append(Layer(**linears | norms))
    if like:
        return Decoder(c, layers, like.embedding, like.norm, like.head)
    embedding, norm = _mapped(header, "embed.weight"), read_tensor(header, "norm.weight")
    return Decoder(c, layers, embedding, norm, heads[0].result())


def _sum(weight_OI: Tensor, scale_O: Tensor, added: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """An int8 weight with the low-rank products of the linears that it stacks added to their rows. Some rows at a time:
    in fp32 the whole would take four times its room, thrice."""
    sum_OI, sum_scale_O, begin = torch.empty_like(weight_OI), torch.empty_like(scale_O), 0
    for down_RI, up_OR in added:
        for up in up_OR.split(_ROWS):
            rows = slice(begin, begin + len(up))
            some = weight_OI[rows].float().mul_(scale_O[rows, None]).addmm_(up, down_RI)
            sum_OI[rows], sum_scale_O[rows] = quantise_weight(some)
            begin = rows.stop
    return sum_OI, sum_scale_O


def convert(checkpoint: Checkpoint, path: Path) -> None:
    """Write the int8 form of a checkpoint to `path`; a reader sees the old file or the whole new one.

    Tensor by tensor: takes the memory of the largest one, not of the model.
    """
    facts = {"format": FORMAT, "config": json.dumps(asdict(checkpoint.config))}
    store.write_sealed(path, lambda file: _write(file, _converted(checkpoint), facts))


def _write(path: Path, tensors: Iterator[tuple[str, Tensor]], facts: dict[str, str]) -> None:
    """A safetensors file: room for its header, the tensors as they come, and at last the header, padded."""
    table: dict[str, object] = {"__metadata__": facts}
    place = 0
    with open(path, "wb") as file:
        file.seek(8 + _HEADER_ROOM)
        for name, tensor in tensors:
            table[name] = {
                "dtype": _KINDS[tensor.dtype],
                "shape": list(tensor.shape),
                "data_offsets": [place, place + tensor.nbytes],
            }
            place += file.write(tensor.contiguous().numpy().data)
        header = json.dumps(table).encode()
        assert len(header) <= _HEADER_ROOM, len(header)
        file.seek(0)
        file.write(struct.pack("<Q", _HEADER_ROOM) + header.ljust(_HEADER_ROOM))


def _converted(checkpoint: Checkpoint) -> Iterator[tuple[str, Tensor]]:
    c = checkpoint.config
    embedding = checkpoint.tensor("embed.weight")
    yield "embed.weight", embedding.half()  # first: rows of two bytes lie aligned
    weight, scale = quantise_weight(embedding if c.tied else checkpoint.tensor("head.weight"))
    yield "head.weight", weight
    yield "head.scale", scale
    yield "norm.weight", checkpoint.tensor("norm.weight")
    del embedding, weight
    for n in range(c.layers):
        for fused in FUSED:
            weight, scale = quantise_weight(fused_weight(checkpoint.tensor, n, fused))
            yield f"layers.{n}.{fused}.weight", weight
            yield f"layers.{n}.{fused}.scale", scale
            bias = fused_bias(checkpoint.tensor, c, n, fused)
            if bias is not None:
                yield f"layers.{n}.{fused}.bias", bias
        for norm, tensor in layer_norms(checkpoint.tensor, c, n).items():
            yield f"layers.{n}.{norm}.weight", tensor


def _is_current(path: Path, config: Config) -> bool:
    """Whether the converted form is whole and was made of a model of this shape, as it is made today."""
    if not path.is_file() or not store.is_sealed(path):
        return False
    try:
        facts = SafetensorsHeader(path).metadata
    except DiffcoderError:
        return False
    return facts.get("format") == FORMAT and facts.get("config") == json.dumps(asdict(config))


def _mapped(header: SafetensorsHeader, name: str) -> Tensor:
    """A tensor read through the page cache, on demand: its rows take memory when they are first looked up."""
    region = header.regions[name]
    dtype = np.float16 if region.kind == "F16" else np.int8
    # Mode "c": a private mapping, which torch need not warn about; nobody writes to it.
    rows = np.memmap(header.path, dtype, "c", region.start, tuple(region.shape))
    assert isinstance(rows.base, mmap.mmap)
    _mappings.add(rows.base)
    return torch.from_numpy(rows)


_mappings: weakref.WeakSet[mmap.mmap] = weakref.WeakSet()


def forget_rows() -> None:
    """Give the memory of looked-up rows back: each took its neighbours along, 64 kB. They stay in the page cache."""
    if hasattr(mmap, "MADV_DONTNEED"):
        for mapping in _mappings:
            mapping.madvise(mmap.MADV_DONTNEED)
