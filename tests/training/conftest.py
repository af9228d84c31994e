"""A tiny random Qwen2 on disk: the shape of the real base, small enough to train in a test."""

import json

import pytest
import torch
from safetensors.torch import save_file

TINY = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 300,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "max_position_embeddings": 512,
    "hidden_act": "silu",
}

torch.set_num_threads(1)  # these models are too small to share


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    """A folder with config.json and model.safetensors."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "config.json").write_text(json.dumps(TINY))
    from model.checkpoints import source_name, tensor_shapes
    from model.decoder import Config

    config = Config(
        layers=2,
        width=64,
        heads=4,
        kv_heads=2,
        head_dim=16,
        mlp_width=128,
        vocab=300,
        rope_theta=1e4,
        norm_eps=1e-6,
        qkv_bias=True,
        qk_norm=False,
        tied=False,
        context=512,
    )
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, shape in tensor_shapes(config).items():
        value = torch.randn(shape, generator=generator) * (0.1 if len(shape) == 1 else shape[-1] ** -0.5)
        tensors[source_name(name, 1)] = 1 + value if name.endswith("norm.weight") else value
    save_file(tensors, folder / "model.safetensors")
    return folder
