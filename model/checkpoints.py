"""Weights on disk -> named float32 tensors: GGUF files, safetensors files, Hugging Face folders.

`open_checkpoint(path)` checks every header (`headers.py`), reads the decoder's shape and demands exactly the
tensors that shape calls for, each with the shape it must have. Names come out canonical (`tensor_shapes`),
rows of q and k in Hugging Face's rotate-half order. Tensors are read and dequantised one at a time, on
demand.

Runs no code from a model: `auto_map` in a config.json is ignored, pickles are not opened. Knows nothing of
how weights are kept afterwards (`quantise.py`) nor of what they mean for sampling (`profiles.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import gguf
import numpy as np
import torch

from model.decoder import Config
from model.headers import GgufHeader, Region, SafetensorsHeader, corrupt, file_size, read_json
from model.schema import DiffcoderError

ARCHITECTURES = ("llama", "qwen2", "qwen3")
_CHUNK_BYTES = 1 << 20  # of float32 output dequantised at a time: bounds the temporaries of gguf.quants
_CONFIG_BYTES = 1 << 20
_INDEX_BYTES = 1 << 24

# canonical name -> (GGUF name, Hugging Face name); {n} is the layer.
_GLOBAL_NAMES = {
    "embed.weight": ("token_embd.weight", "model.embed_tokens.weight"),
    "norm.weight": ("output_norm.weight", "model.norm.weight"),
    "head.weight": ("output.weight", "lm_head.weight"),
}
_LAYER_NAMES = {
    "attn_norm.weight": ("attn_norm.weight", "input_layernorm.weight"),
    "q.weight": ("attn_q.weight", "self_attn.q_proj.weight"),
    "q.bias": ("attn_q.bias", "self_attn.q_proj.bias"),
    "k.weight": ("attn_k.weight", "self_attn.k_proj.weight"),
    "k.bias": ("attn_k.bias", "self_attn.k_proj.bias"),
    "v.weight": ("attn_v.weight", "self_attn.v_proj.weight"),
    "v.bias": ("attn_v.bias", "self_attn.v_proj.bias"),
    "q_norm.weight": ("attn_q_norm.weight", "self_attn.q_norm.weight"),
    "k_norm.weight": ("attn_k_norm.weight", "self_attn.k_norm.weight"),
    "o.weight": ("attn_output.weight", "self_attn.o_proj.weight"),
    "mlp_norm.weight": ("ffn_norm.weight", "post_attention_layernorm.weight"),
    "gate.weight": ("ffn_gate.weight", "mlp.gate_proj.weight"),
    "up.weight": ("ffn_up.weight", "mlp.up_proj.weight"),
    "down.weight": ("ffn_down.weight", "mlp.down_proj.weight"),
}


def tensor_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Every tensor a decoder of this shape has: canonical name -> shape, rows first."""
    width, mlp = config.width, config.mlp_width
    q_rows, kv_rows = config.heads * config.head_dim, config.kv_heads * config.head_dim
    layer: dict[str, tuple[int, ...]] = {"attn_norm.weight": (width,)}
    for name, rows in (("q", q_rows), ("k", kv_rows), ("v", kv_rows)):
        layer[f"{name}.weight"] = (rows, width)
        if config.qkv_bias:
            layer[f"{name}.bias"] = (rows,)
    if config.qk_norm:
        layer |= {"q_norm.weight": (config.head_dim,), "k_norm.weight": (config.head_dim,)}
    layer |= {
        "o.weight": (width, q_rows),
        "mlp_norm.weight": (width,),
        "gate.weight": (mlp, width),
        "up.weight": (mlp, width),
        "down.weight": (width, mlp),
    }
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (config.vocab, width)}
    shapes |= {f"layers.{n}.{name}": shape for n in range(config.layers) for name, shape in layer.items()}
    shapes["norm.weight"] = (width,)
    if not config.tied:
        shapes["head.weight"] = (config.vocab, width)
    return shapes


def source_name(name: str, style: int) -> str:
    """A canonical name in GGUF's (style 0) or Hugging Face's (style 1) words."""
    if name in _GLOBAL_NAMES:
        return _GLOBAL_NAMES[name][style]
    _, layer, rest = name.split(".", 2)
    return f"{('blk', 'model.layers')[style]}.{layer}.{_LAYER_NAMES[rest][style]}"


class Checkpoint(ABC):
    """A checked model on disk. `architecture` is one of ARCHITECTURES; `path` is the file or folder. `made` is what a
    recipe of ours wrote into its config.json, unchecked (`profiles.Made`); None for any other model."""

    path: Path
    architecture: str
    config: Config
    made: object = None

    def names(self) -> list[str]:
        """Canonical tensor names, embedding first, head last."""
        return list(tensor_shapes(self.config))

    def shape(self, name: str) -> tuple[int, ...]:
        return tensor_shapes(self.config)[name]

    @abstractmethod
    def tensor(self, name: str) -> torch.Tensor:
        """The tensor in float32, freshly read. A weight that is not a finite number -> DiffcoderError."""


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a GGUF file, a safetensors file with its config.json beside it, or a folder of both.

    Raises DiffcoderError: "corrupt_model" for anything malformed, "unsupported_model" for a sound model
    that is not of the Llama, Qwen2 or Qwen3 shape, "model_unreadable" when the files cannot be read.
    """
    path = Path(path)
    if path.is_dir():
        return FolderCheckpoint(path)
    if path.suffix == ".safetensors":
        return FolderCheckpoint(path.parent, only=path)
    if path.suffix == ".gguf":
        return GgufCheckpoint(path)
    file_size(path)  # a path that does not exist gets the clearer message
    corrupt(path, "only .gguf files, .safetensors files and folders are read")


class GgufCheckpoint(Checkpoint):
    """A model in one GGUF file. `header` also carries the tokenizer (`tokens.py`)."""

    def __init__(self, path: Path):
        self.path = path
        self.header = GgufHeader(path)
        architecture = self.header.values.get("general.architecture")
        if not isinstance(architecture, str):
            corrupt(path, "it does not name its architecture")
        self.architecture = _supported(path, architecture)
        self.config = _gguf_config(self.header, self.architecture)
        _demand(path, self.config, self.header.regions, style=0)

    def tensor(self, name: str) -> torch.Tensor:
        region = self.header.regions[source_name(name, 0)]
        tensor = torch.from_numpy(_dequantise(self.path, region))
        if self.architecture == "llama" and name.endswith((".q.weight", ".k.weight")):
            heads = self.config.heads if name.endswith(".q.weight") else self.config.kv_heads
            return _halves(tensor, heads)
        return tensor


def _halves(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """Undo llama.cpp's reordering of q and k rows: rotated pairs side by side -> one half after the other."""
    return rows.view(heads, -1, 2, rows.shape[1]).transpose(1, 2).reshape(rows.shape)


def _dequantise(path: Path, region: Region) -> np.ndarray:
    """Read a tensor's bytes and turn them into float32, a few rows at a time."""
    out = np.empty(region.shape, np.float32)
    table = out.reshape(-1, region.shape[-1])
    row_bytes = region.size // len(table)
    step = max(1, _CHUNK_BYTES // (4 * table.shape[1]))
    kind = gguf.GGMLQuantizationType[region.kind]
    with open(path, "rb") as file:
        file.seek(region.start)
        for start in range(0, len(table), step):
            rows = table[start : start + step]
            raw = np.frombuffer(file.read(row_bytes * len(rows)), np.uint8)
            if raw.size != row_bytes * len(rows):
                corrupt(path, "it became shorter while it was read")
            with np.errstate(all="ignore"):  # a NaN scale is found below
                rows[:] = gguf.quants.dequantize(raw.reshape(len(rows), row_bytes), kind)
            if not np.isfinite(rows).all():
                corrupt(path, "a weight is not a number")
    return out


def _gguf_config(header: GgufHeader, architecture: str) -> Config:
    fields = _Fields(header.path, header.values, prefix=f"{architecture}.")
    heads = fields.count("attention.head_count", 4096)
    width = fields.count("embedding_length", 1 << 20)
    if width % heads and "attention.key_length" not in fields:
        corrupt(header.path, "its width does not divide into its heads")
    head_dim = fields.count("attention.key_length", 4096, default=width // heads)
    if fields.count("attention.value_length", 4096, default=head_dim) != head_dim:
        _unsupported(header.path, "its values are not as wide as its keys")
    if fields.count("rope.dimension_count", 4096, default=head_dim) != head_dim:
        _unsupported(header.path, "it rotates only part of each head")
    if fields.get("rope.scaling.type", "none") != "none" or fields.get("expert_count", 0) != 0:
        _unsupported(header.path, "it scales its positions or has experts")
    embed = header.regions.get("token_embd.weight")
    if embed is None or len(embed.shape) != 2:
        corrupt(header.path, "its embedding is missing")
    vocab = fields.count("vocab_size", 1 << 24, default=embed.shape[0])
    return _checked(
        header.path,
        Config(
            layers=fields.count("block_count", 4096),
            width=width,
            heads=heads,
            kv_heads=fields.count("attention.head_count_kv", 4096, default=heads),
            head_dim=head_dim,
            mlp_width=fields.count("feed_forward_length", 1 << 22),
            vocab=vocab,
            rope_theta=fields.real("rope.freq_base", default=10_000.0),
            norm_eps=fields.real("attention.layer_norm_rms_epsilon"),
            qkv_bias=architecture == "qwen2",
            qk_norm=architecture == "qwen3",
            tied="output.weight" not in header.regions,
            context=fields.count("context_length", 1 << 24),
        ),
    )


class FolderCheckpoint(Checkpoint):
    """config.json with one safetensors file, or with several and their index."""

    def __init__(self, path: Path, only: Path | None = None):
        self.path = path
        config_file = path / "config.json"
        table = read_json(config_file, _read_small(config_file, _CONFIG_BYTES))
        architecture = table.get("model_type")
        if not isinstance(architecture, str):
            corrupt(config_file, "it does not name its model_type")
        self.architecture = _supported(config_file, architecture)
        self.config = _folder_config(config_file, self.architecture, table)
        self.made = table.get("diffcoder")
        self._files = self._place([only] if only else self._shards())
        regions = {name: header.regions[name] for name, header in self._files.items()}
        _demand(path, self.config, regions, style=1)

    def _shards(self) -> list[Path]:
        index = self.path / "model.safetensors.index.json"
        if not index.exists():
            return [self.path / "model.safetensors"]
        weight_map = read_json(index, _read_small(index, _INDEX_BYTES)).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            corrupt(index, "it has no weight_map")
        files = set(weight_map.values())
        for file in files:
            if not isinstance(file, str) or not file.endswith(".safetensors") or Path(file).name != file:
                corrupt(index, "it names a file that is not a safetensors file of this folder")
        self._listed = weight_map
        return [self.path / file for file in sorted(files)]

    def _place(self, shards: list[Path]) -> dict[str, SafetensorsHeader]:
        """Tensor name -> header of the file that holds it."""
        files: dict[str, SafetensorsHeader] = {}
        for shard in shards:
            header = SafetensorsHeader(shard)
            for name in header.regions:
                if name in files:
                    corrupt(shard, "a tensor lies in two files")
                files[name] = header
        listed = getattr(self, "_listed", None)
        if listed is not None and {name: header.path.name for name, header in files.items()} != listed:
            corrupt(self.path / "model.safetensors.index.json", "it does not match the files it lists")
        return files

    def tensor(self, name: str) -> torch.Tensor:
        source = source_name(name, 1)
        header = self._files[source]
        tensor = read_tensor(header, source).to(torch.float32)
        if not torch.isfinite(tensor).all():
            corrupt(header.path, "a weight is not a number")
        return tensor


_TORCH_TYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def read_tensor(header: SafetensorsHeader, name: str) -> torch.Tensor:
    """One tensor of a checked safetensors file, in the type it is stored in."""
    region = header.regions[name]
    dtype = _TORCH_TYPES[region.kind]
    if not region.size:
        return torch.empty(region.shape, dtype=dtype)
    with open(header.path, "rb") as file:
        file.seek(region.start)
        raw = bytearray(file.read(region.size))
    if len(raw) != region.size:
        corrupt(header.path, "it became shorter while it was read")
    return torch.frombuffer(raw, dtype=dtype).view(region.shape)


def _folder_config(path: Path, architecture: str, table: Mapping[str, Any]) -> Config:
    fields = _Fields(path, table)
    heads = fields.count("num_attention_heads", 4096)
    width = fields.count("hidden_size", 1 << 20)
    if width % heads and fields.get("head_dim") is None:
        corrupt(path, "its width does not divide into its heads")
    bias = fields.flag("attention_bias", False)
    if bias or fields.flag("mlp_bias", False):
        _unsupported(path, "it has biases that a Llama does not")
    if fields.get("hidden_act", "silu") != "silu":
        _unsupported(path, "its activation is not SiLU")
    if fields.flag("use_sliding_window", False):
        _unsupported(path, "it uses a sliding window")
    if fields.get("quantization_config") is not None:
        _unsupported(
            path, "its weights are quantised in a way of their own; take the plain ones or a GGUF file"
        )
    # transformers 5 writes rope_parameters, older ones rope_theta and rope_scaling
    rope = fields.get("rope_parameters") or fields.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        corrupt(path, "its rope parameters are malformed")
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        _unsupported(path, "it scales its positions")
    theta = _Fields(path, rope) if "rope_theta" in rope else fields
    # every family's own default is untied
    return _checked(
        path,
        Config(
            layers=fields.count("num_hidden_layers", 4096),
            width=width,
            heads=heads,
            kv_heads=fields.count("num_key_value_heads", 4096, default=heads),
            head_dim=fields.count("head_dim", 4096, default=width // heads),
            mlp_width=fields.count("intermediate_size", 1 << 22),
            vocab=fields.count("vocab_size", 1 << 24),
            rope_theta=theta.real("rope_theta", default=10_000.0),
            norm_eps=fields.real("rms_norm_eps"),
            qkv_bias=architecture == "qwen2",
            qk_norm=architecture == "qwen3",
            tied=fields.flag("tie_word_embeddings", False),
            context=fields.count("max_position_embeddings", 1 << 24),
        ),
    )


class _Fields:
    """Typed, bounded look-ups in a table that came out of a model file."""

    def __init__(self, path: Path, table: Mapping[str, Any], prefix: str = ""):
        self._path, self._table, self._prefix = path, table, prefix

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._table

    def get(self, name: str, default: Any = None) -> Any:
        return self._table.get(self._prefix + name, default)

    def count(self, name: str, limit: int, default: int | None = None) -> int:
        value = self.get(name)
        value = default if value is None else value
        if type(value) is not int or not 1 <= value <= limit:
            corrupt(self._path, f"{self._prefix}{name} is missing or impossible")
        return value

    def real(self, name: str, default: float | None = None) -> float:
        value = self.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
            corrupt(self._path, f"{self._prefix}{name} is missing or impossible")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.get(name)
        value = default if value is None else value
        if type(value) is not bool:
            corrupt(self._path, f"{self._prefix}{name} is neither true nor false")
        return value


def _checked(path: Path, config: Config) -> Config:
    if (
        config.heads % config.kv_heads
        or config.head_dim % 2
        or config.rope_theta < 1
        or config.norm_eps > 0.1
    ):
        corrupt(path, "its shape contradicts itself")
    return config


def _demand(path: Path, config: Config, regions: Mapping[str, Region], style: int) -> None:
    """The file must hold exactly the tensors of its config, in the shapes of its config."""
    # Compared before `tensor_shapes` builds its table: the number of layers is still only a claim.
    if config.layers * 9 > len(regions):
        corrupt(path, f"it claims {config.layers} layers and has {len(regions)} tensors")
    wanted = {source_name(name, style): shape for name, shape in tensor_shapes(config).items()}
    for name, shape in wanted.items():
        if name not in regions:
            corrupt(path, f"{name} is missing")
        if regions[name].shape != shape:
            corrupt(path, f"{name} has shape {regions[name].shape} where {shape} belongs")
        if style == 1 and regions[name].kind not in ("F32", "F16", "BF16"):
            corrupt(path, f"{name} does not hold floating-point numbers")
    for name in regions.keys() - wanted.keys():
        # Tied models are often saved with a copy of the embedding as head; old Llamas with their frequencies.
        if style == 1 and (name == "lm_head.weight" or name.endswith(".rotary_emb.inv_freq")):
            continue
        corrupt(path, f"it holds {name[:80]}, which its shape has no place for")


def _supported(path: Path, architecture: str) -> str:
    if architecture not in ARCHITECTURES:
        _unsupported(
            path, f"its architecture is {architecture[:40]!r}, not one of {', '.join(ARCHITECTURES)}"
        )
    return architecture


def _unsupported(path: Path, reason: str) -> NoReturn:
    raise DiffcoderError(
        "unsupported_model", f"{path.name} cannot be run here ({reason}): choose another model file."
    )


def _read_small(path: Path, limit: int) -> bytes:
    size = file_size(path)
    if size > limit:
        corrupt(path, f"it has {size} bytes where at most {limit} belong")
    return path.read_bytes()
