"""The real default model, loaded once a session: in the engine's int8 form, and in fp32 as an oracle."""

from __future__ import annotations

import pytest

from model import loading, registry, store
from model.checkpoints import open_checkpoint
from model.generator import Generator
from model.loading import Loaded
from tests.model.folders import write_adapter


@pytest.fixture(scope="session")
def generator(default_model: str, tmp_path_factory: pytest.TempPathFactory) -> Generator:
    """The default model with its adapter; while none ships with it, with a random one, for laws that hold of any."""
    adapter = loading.shipped_adapter(default_model)
    if adapter is None:
        config = open_checkpoint(store.model_path(default_model)).config
        adapter = tmp_path_factory.mktemp("adapter") / "random.safetensors"
        write_adapter(adapter, config, registry.find(default_model).files[0].sha256)
    return Generator.load(default_model, adapter=adapter)


@pytest.fixture(scope="session")
def fp32(default_model: str) -> Loaded:
    """The default model's weights as they are in its file: 2.5 GB."""
    return loading.load(default_model, form="fp32")
