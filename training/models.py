"""A trained model as a folder: what the engine opens (`--model FOLDER`), another recipe starts from (`--base FOLDER`) and
transformers loads. Knows nothing of how its weights came about.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from model.checkpoints import Checkpoint, source_name
from model.tokens import load_tokenizer
from training.files import write_atomically
from training.scratch import HUGGING_FACE, hugging_face_config

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def write_model(
    folder: Path, base: Checkpoint, read: Callable[[str], Tensor], made: dict[str, object]
) -> None:
    """The base's shape and tokenizer with the weights that `read` gives by canonical name.

    `made` is what the engine must know of it (`model.profiles.Made`). config.json comes last: without it no folder opens.
    """
    folder.mkdir(exist_ok=True)
    for name, data in _tokenizer(base).items():
        write_atomically(folder / name, data)
    tensors = {source_name(name, HUGGING_FACE): read(name).contiguous() for name in base.names()}
    write_atomically(folder / "model.safetensors", save(tensors, {"format": "pt"}))
    config = hugging_face_config(base.config, base.architecture) | {"diffcoder": made}
    write_atomically(folder / "config.json", json.dumps(config, indent=1).encode())


def _tokenizer(base: Checkpoint) -> dict[str, bytes]:
    """The base's tokenizer files; of a GGUF file, its tokenizer as one."""
    if base.path.suffix == ".gguf":
        return {"tokenizer.json": load_tokenizer(base).to_str().encode()}
    files = (base.path / name for name in _TOKENIZER_FILES)
    return {file.name: file.read_bytes() for file in files if file.is_file()}
