"""Checkpoints against transformers' own models and loaders, and against files that lie."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
import transformers

from benchmarks import faults_models
from model.checkpoints import GgufCheckpoint, open_checkpoint, read_tensor, tensor_shapes
from model.headers import GGML_TYPES, GgufHeader, SafetensorsHeader
from model.schema import DiffcoderError

SHAPE = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
}
CONFIGS = {
    "llama": transformers.LlamaConfig,
    "qwen2": transformers.Qwen2Config,
    "qwen3": transformers.Qwen3Config,
}
# canonical name -> transformers' name, written out again: the reader's table is what is under test
HF_NAMES = {
    "attn_norm.weight": "input_layernorm.weight",
    "q.weight": "self_attn.q_proj.weight",
    "q.bias": "self_attn.q_proj.bias",
    "k.weight": "self_attn.k_proj.weight",
    "k.bias": "self_attn.k_proj.bias",
    "v.weight": "self_attn.v_proj.weight",
    "v.bias": "self_attn.v_proj.bias",
    "o.weight": "self_attn.o_proj.weight",
    "q_norm.weight": "self_attn.q_norm.weight",
    "k_norm.weight": "self_attn.k_norm.weight",
    "mlp_norm.weight": "post_attention_layernorm.weight",
    "gate.weight": "mlp.gate_proj.weight",
    "up.weight": "mlp.up_proj.weight",
    "down.weight": "mlp.down_proj.weight",
}


def hf_name(name: str) -> str:
    whole = {"embed.weight": "model.embed_tokens", "norm.weight": "model.norm", "head.weight": "lm_head"}
    if name in whole:
        return f"{whole[name]}.weight"
    _, layer, rest = name.split(".", 2)
    return f"model.layers.{layer}.{HF_NAMES[rest]}"


def tiny_hf(family: str, tied: bool = False, **changes: object) -> transformers.PreTrainedModel:
    torch.manual_seed(len(family))
    extra = {"head_dim": 128} if family == "qwen3" else {}
    config = CONFIGS[family](**SHAPE | extra | {"tie_word_embeddings": tied} | changes)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for (
        parameter
    ) in model.parameters():  # norms and biases start as ones and zeros, which would hide mistakes
        parameter.data.normal_(0.5)
    return model.eval()


def refused(path: Path, code: str = "corrupt_model") -> str:
    with pytest.raises(DiffcoderError) as caught:
        faults_models.read_all(path)
    assert caught.value.code == code
    assert caught.value.message.endswith(".")
    assert "\n" not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("tied", [False, True])
def test_folders_give_transformers_own_tensors(family: str, tied: bool, tmp_path: Path) -> None:
    model = tiny_hf(family, tied)
    model.save_pretrained(tmp_path)
    checkpoint = open_checkpoint(tmp_path)
    state = model.state_dict()
    expected = {hf_name(name) for name in checkpoint.names()}
    assert expected == set(state) - ({"lm_head.weight"} if tied else set())
    for name in checkpoint.names():
        tensor = checkpoint.tensor(name)
        assert tensor.dtype == torch.float32
        assert checkpoint.shape(name) == tuple(tensor.shape)
        assert torch.equal(tensor, state[hf_name(name)]), name
    config = checkpoint.config
    assert checkpoint.architecture == family
    assert (config.layers, config.width, config.heads, config.kv_heads) == (2, 64, 4, 2)
    assert (config.head_dim, config.mlp_width, config.vocab) == (128 if family == "qwen3" else 16, 96, 320)
    assert (config.tied, config.qkv_bias, config.qk_norm) == (tied, family == "qwen2", family == "qwen3")
    assert (config.norm_eps, config.context) == (1e-5, 512)


def test_the_rotary_base_is_read_in_both_spellings(tmp_path: Path) -> None:
    tiny_hf("llama", rope_parameters={"rope_type": "default", "rope_theta": 500_000.0}).save_pretrained(
        tmp_path
    )
    assert open_checkpoint(tmp_path).config.rope_theta == 500_000.0
    config = json.loads((tmp_path / "config.json").read_text())
    del config["rope_parameters"]
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"rope_theta": 250_000.0, "rope_scaling": None})
    )
    assert open_checkpoint(tmp_path).config.rope_theta == 250_000.0


def test_a_sharded_bf16_folder_and_a_single_file(tmp_path: Path) -> None:
    model = tiny_hf("llama").bfloat16()
    model.save_pretrained(tmp_path / "sharded", max_shard_size="60KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    model.save_pretrained(tmp_path / "single")
    for path in (tmp_path / "sharded", tmp_path / "single" / "model.safetensors"):
        checkpoint = open_checkpoint(path)
        for name in checkpoint.names():
            assert torch.equal(checkpoint.tensor(name), model.state_dict()[hf_name(name)].float())


def test_remote_code_named_by_a_config_is_not_run(tmp_path: Path) -> None:
    tiny_hf("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_evil.Model"}
    config["architectures"] = ["StableDiffcoderForCausalLM"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "modeling_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    faults_models.read_all(tmp_path)
    assert not (tmp_path / "ran").exists()


def write_gguf(path: Path, model: transformers.PreTrainedModel, kind: str = "F32") -> None:
    """What llama.cpp's converter makes of a model, q and k of a Llama reordered as it does."""
    config, family = model.config, model.config.model_type
    writer = gguf.GGUFWriter(path, family)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    if family == "qwen3":
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    blocks = gguf.get_tensor_name_map(gguf.MODEL_ARCH[family.upper()], config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        if family == "llama" and ("q_proj" in name or "k_proj" in name):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            array = (
                array.reshape(heads, 2, array.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(array.shape)
            )
        of = gguf.GGMLQuantizationType[kind if array.ndim == 2 else "F32"]
        target = blocks.get_name(name, try_suffixes=(".weight", ".bias"))
        assert target is not None
        writer.add_tensor(target, gguf.quants.quantize(np.ascontiguousarray(array), of), raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("family", CONFIGS)
def test_gguf_files_give_back_the_model_they_were_made_from(family: str, tmp_path: Path) -> None:
    model = tiny_hf(family)
    write_gguf(tmp_path / "model.gguf", model)
    checkpoint = open_checkpoint(tmp_path / "model.gguf")
    for name in checkpoint.names():
        assert torch.equal(checkpoint.tensor(name), model.state_dict()[hf_name(name)]), name
    # transformers' own reader of GGUF, which has its own idea of the reordering
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="model.gguf").state_dict()
    for name in checkpoint.names():
        assert torch.equal(checkpoint.tensor(name), theirs[hf_name(name)].float()), name
    assert checkpoint.config.head_dim == (128 if family == "qwen3" else 16)
    assert not checkpoint.config.tied


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_quantised_types_are_read_as_the_gguf_package_reads_them(kind: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "model.gguf", tiny_hf("qwen2"), kind)
    checkpoint = GgufCheckpoint(tmp_path / "model.gguf")
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    for name, source in (
        ("embed.weight", "token_embd.weight"),
        ("layers.1.down.weight", "blk.1.ffn_down.weight"),
    ):
        tensor = theirs[source]
        expected = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert checkpoint.header.regions[source].kind == (
            kind if checkpoint.shape(name)[1] % 32 == 0 else "F32"
        )
        assert torch.equal(checkpoint.tensor(name), torch.from_numpy(expected.copy()))


def test_the_table_of_types_is_the_gguf_packages() -> None:
    for number, (name, block, size) in GGML_TYPES.items():
        kind = gguf.GGMLQuantizationType(number)
        assert (kind.name, gguf.GGML_QUANT_SIZES[kind]) == (name, (block, size))


@pytest.mark.model
def test_the_real_default_model(default_model: str) -> None:
    from model import store

    checkpoint = open_checkpoint(store.model_path(default_model))
    config = checkpoint.config
    assert (config.layers, config.width, config.heads, config.kv_heads) == (24, 896, 14, 2)
    assert (config.vocab, config.rope_theta, config.qkv_bias, config.tied) == (151_936, 1e6, True, False)
    assert len(checkpoint.names()) == 291
    # float64 sums, taken once from gguf.GGUFReader and gguf.quants.dequantize (which need 11 s for this file)
    for name, total in REAL_SUMS.items():
        assert float(checkpoint.tensor(name).double().abs().sum()) == pytest.approx(total, rel=1e-9)


REAL_SUMS = {
    "layers.0.q.weight": 23411.351831436157,  # Q5_0
    "layers.0.q.bias": 3525.616258621216,
    "layers.5.v.weight": 853.2960166931152,
    "layers.0.down.weight": 43436.01161056757,  # Q6_K
    "layers.11.down.weight": 31623.616562485695,  # Q4_K
    "layers.23.up.weight": 73525.15258026123,
    "norm.weight": 6479.56591796875,
}


# --- lies ---


@pytest.fixture
def tiny_gguf(tmp_path: Path) -> Path:
    faults_models.write_tiny_gguf(tmp_path / "model.gguf")
    return tmp_path / "model.gguf"


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    faults_models.write_tiny_folder(tmp_path / "model")
    return tmp_path / "model"


def test_the_unbroken_files_are_read(tiny_gguf: Path, tiny_folder: Path) -> None:
    faults_models.read_all(tiny_gguf)
    faults_models.read_all(tiny_folder)


@pytest.mark.parametrize(
    ("at", "code", "value"),
    [
        (0, "<I", 0x46554747 ^ 1),  # magic
        (4, "<I", 1),  # version
        (4, "<I", 0x03000000),  # big-endian
        (8, "<Q", 0),
        (8, "<Q", 2**63),
        (8, "<Q", 21),  # one more tensor than there is
        (16, "<Q", 2**64 - 1),
        (16, "<Q", 0),
        (24, "<Q", 2**40),  # the first name's length
        (24, "<Q", 2**64 - 8),
    ],
)
def test_lying_counts_and_lengths(tiny_gguf: Path, at: int, code: str, value: int) -> None:
    data = bytearray(tiny_gguf.read_bytes())
    struct.pack_into(code, data, at, value)
    tiny_gguf.write_bytes(data)
    refused(tiny_gguf)


def test_every_truncation_of_a_header_is_refused(tiny_gguf: Path) -> None:
    data = tiny_gguf.read_bytes()
    end = min(region.start for region in GgufHeader(tiny_gguf).regions.values())
    for length in [*range(0, end, 37), end, len(data) - 1, len(data) - 4_096]:
        tiny_gguf.write_bytes(data[:length])
        refused(tiny_gguf)


def patched(path: Path, before: bytes, after: bytes) -> None:
    data = path.read_bytes()
    assert data.count(before) == 1
    assert len(before) == len(after)
    path.write_bytes(data.replace(before, after))


def tensor_info(name: str, dims: tuple[int, ...], kind: int, offset: int) -> bytes:
    raw = struct.pack("<Q", len(name)) + name.encode() + struct.pack("<I", len(dims))
    return raw + b"".join(struct.pack("<Q", dim) for dim in dims) + struct.pack("<IQ", kind, offset)


def test_tensors_that_overlap_leave_gaps_or_lie_outside(tiny_gguf: Path) -> None:
    whole = tiny_gguf.read_bytes()
    regions = GgufHeader(tiny_gguf).regions
    start = min(region.start for region in regions.values())
    norm = regions["output_norm.weight"]
    info = tensor_info("output_norm.weight", (64,), 0, norm.start - start)
    for dims, kind, offset in (
        ((64,), 0, 0),  # on top of the first
        ((64,), 0, norm.start - start + 32),  # a gap
        ((64,), 0, 2**63),  # outside
        ((64,), 0, norm.start - start + 1),  # not aligned
        ((0,), 0, norm.start - start),
        ((2**62,), 0, norm.start - start),
        ((64,), 8, norm.start - start),  # another type, so another size
        ((64,), 4, norm.start - start),  # a type that was withdrawn
        ((64,), 24, norm.start - start),  # integers are no weights
    ):
        tiny_gguf.write_bytes(whole)
        patched(tiny_gguf, info, tensor_info("output_norm.weight", dims, kind, offset))
        refused(tiny_gguf)


def test_a_weight_that_is_not_a_number(tiny_gguf: Path, tiny_folder: Path) -> None:
    region = GgufHeader(tiny_gguf).regions["output_norm.weight"]
    data = bytearray(tiny_gguf.read_bytes())
    struct.pack_into("<f", data, region.start, float("nan"))
    tiny_gguf.write_bytes(data)
    assert "not a number" in refused(tiny_gguf)
    file = tiny_folder / "model.safetensors"
    region = SafetensorsHeader(file).regions["model.norm.weight"]
    data = bytearray(file.read_bytes())
    struct.pack_into("<f", data, region.start, float("inf"))
    file.write_bytes(data)
    assert "not a number" in refused(tiny_folder)


def test_architectures_and_formats_that_are_not_ours(
    tiny_gguf: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    patched(tiny_gguf, b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0llama",
            b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0mamba")  # fmt: skip
    assert "mamba" in refused(tiny_gguf, "unsupported_model")
    config = json.loads((tiny_folder / "config.json").read_text())
    for change in (
        {"model_type": "gpt_neox"},
        {"use_sliding_window": True},
        {"hidden_act": "gelu"},
        {"attention_bias": True},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}},
        {"quantization_config": {"bits": 4}},
    ):
        (tiny_folder / "config.json").write_text(json.dumps(config | change))
        refused(tiny_folder, "unsupported_model")
    (tmp_path / "model.bin").write_bytes(b"\x80\x04pickle")
    refused(tmp_path / "model.bin")
    refused(tmp_path / "nothing.gguf", "model_unreadable")


@pytest.mark.parametrize(
    "change",
    [
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 1},
        {"num_hidden_layers": -1},
        {"num_hidden_layers": 2.0},
        {"hidden_size": "32"},
        {"hidden_size": 64},
        {"num_attention_heads": 3},
        {"num_key_value_heads": 3},
        {"head_dim": 7},
        {"vocab_size": 127},
        {"rms_norm_eps": 1e300},
        {"rms_norm_eps": True},
        {"rope_theta": -1.0},
        {"tie_word_embeddings": "no"},
        {"tie_word_embeddings": False},  # then a head is missing
        {"model_type": None},
        {"rope_parameters": [1]},
    ],
)
def test_a_config_that_does_not_fit_its_tensors(tiny_folder: Path, change: dict[str, object]) -> None:
    config = json.loads((tiny_folder / "config.json").read_text())
    (tiny_folder / "config.json").write_text(json.dumps(config | change))
    refused(tiny_folder)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a":NaN}', '{"a":1,"a":1}', "[" * 100_000, "\udcff"])
def test_a_config_that_is_not_json(tiny_folder: Path, text: str) -> None:
    (tiny_folder / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(tiny_folder)


def test_an_index_that_leads_elsewhere_or_lies(tmp_path: Path) -> None:
    tiny_hf("llama").save_pretrained(tmp_path, max_shard_size="60KB")
    index = tmp_path / "model.safetensors.index.json"
    sound = json.loads(index.read_text())
    first = next(iter(sound["weight_map"]))
    shutil.copyfile(tmp_path / sound["weight_map"][first], tmp_path.parent / "outside.safetensors")
    for value in (
        "../outside.safetensors",
        str(tmp_path.parent / "outside.safetensors"),
        "model.bin",
        3,
        None,
    ):
        index.write_text(json.dumps(sound | {"weight_map": sound["weight_map"] | {first: value}}))
        refused(tmp_path)
    others = sorted(set(sound["weight_map"].values()) - {sound["weight_map"][first]})
    index.write_text(json.dumps(sound | {"weight_map": sound["weight_map"] | {first: others[0]}}))
    refused(tmp_path)
    index.write_text(json.dumps(sound))
    faults_models.read_all(tmp_path)
    (tmp_path / others[0]).unlink()
    refused(tmp_path, "model_unreadable")


def test_a_safetensors_header_cannot_claim_more_than_the_file(tiny_folder: Path) -> None:
    file = tiny_folder / "model.safetensors"
    data = file.read_bytes()
    for length in (0, 1, len(data), 2**62, 2**64 - 1):
        file.write_bytes(struct.pack("<Q", length) + data[8:])
        refused(tiny_folder)
    for length in (0, 7, 8, 100, len(data) - 1):
        file.write_bytes(data[:length])
        refused(tiny_folder)
    file.write_bytes(data + b"\0")
    refused(tiny_folder)


def test_read_tensor_keeps_the_stored_type(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {
        "int8": torch.randint(-128, 127, (4, 6), dtype=torch.int8),
        "half": torch.randn(3, 5, dtype=torch.float16),
        "empty": torch.empty(0, 4),
        "one": torch.tensor(2.5),
    }
    save_file(tensors, tmp_path / "x.safetensors", metadata={"form": "int8"})
    header = SafetensorsHeader(tmp_path / "x.safetensors")
    assert header.metadata == {"form": "int8"}
    for name, tensor in tensors.items():
        read = read_tensor(header, name)
        assert read.dtype == tensor.dtype
        assert torch.equal(read, tensor)


def test_shapes_name_each_tensor_once(tiny_gguf: Path) -> None:
    checkpoint = open_checkpoint(tiny_gguf)
    assert isinstance(checkpoint, GgufCheckpoint)
    assert len(tensor_shapes(checkpoint.config)) == len(checkpoint.header.regions)


def test_a_small_run_of_the_fuzzer() -> None:
    for figure in faults_models.mutated_headers(400):
        assert figure.met, figure.line()
