"""What the tests of the editor's side share. Property tests have no deadline here: two busy cores make any time limit a
matter of luck."""

from __future__ import annotations

import pytest
from hypothesis import settings

from benchmarks.lsp_client import Client
from tests.lsp.scripted import start_engine

settings.register_profile("diffcoder", deadline=None)
settings.load_profile("diffcoder")


@pytest.fixture(scope="module")
def scripted_home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    source = '[scripted]\ntitle = "Scripted"\n[[scripted.sources]]\nkind = "file"\npath = "none.gguf"\n'
    (home / "models.toml").write_text(source)
    engine = start_engine(home)
    yield home
    engine.kill()
    engine.wait(20)


@pytest.fixture
def start(scripted_home):
    clients: list[Client] = []

    def start(capabilities=None, root=None, **options) -> Client:
        client = Client("--model", "scripted", DIFFCODER_HOME=str(scripted_home))
        clients.append(client)
        client.initialize(root, capabilities, **{"inline": {"confidence": 0.4, "debounceMs": 0}} | options)
        return client

    yield start
    for client in clients:
        client.__exit__()
