"""The library over real engines, in this process."""

import asyncio
import threading
from pathlib import Path

import pytest
from narthex_server.config.server import ServerConfig
from narthex_server.engine.request import EngineRequest, Sampling
from narthex_server.errors import InvalidModelFile
from narthex_server.lot.lot import Lot
from narthex_server.metrics.embedding import EmbeddingMetrics
from narthex_server.metrics.engine import EngineMetrics
from narthex_server.metrics.registry import new_registry
from narthex_server.metrics.remote import RemoteMetrics
from narthex_server.pipelines.library import ModelLibrary
from narthex_server.pipelines.order import Order, Wanted
from narthex_server.starting import ModelLoader, RemoteLoader

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "models/demo/tiny-tool-demo-q8_0.gguf"
BERT = ROOT / "tests/golden/embed_bert"


class WatchedLoader(ModelLoader):
    """Tells when a model has left the memory."""

    def __init__(self, *settings) -> None:
        super().__init__(*settings)
        self.left = asyncio.Event()

    async def stop(self, model) -> None:
        await super().stop(model)
        self.left.set()


@pytest.fixture
def loader(tmp_path):
    config = ServerConfig(threads=1, max_slots=2, max_context=128, cache_dir=tmp_path / "cache")
    registry = new_registry()
    engines, embedders = EngineMetrics(registry), EmbeddingMetrics(registry)
    lot = Lot()
    remotes = RemoteLoader(config, lot, RemoteMetrics(registry, engines, embedders))
    return WatchedLoader(config, lot, engines, embedders, remotes)


@pytest.fixture
async def library(loader):
    library = ModelLibrary(loader, idle_unload=0.05)
    yield library
    await library.stop()


def engines() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("narthex-")]


async def load(library, name, path, wanted=Wanted()):  # noqa: B008 (frozen)
    async for _ in library.load(Order(name, path, wanted)):
        pass


async def test_the_thread_of_an_unloaded_model_is_gone(library):
    await load(library, "text", DEMO)
    await load(library, "vectors", BERT)
    async with library.use("text") as model, library.use_embedder("vectors"):
        assert sorted(engines()) == ["narthex-embedder", "narthex-engine"]
        request = EngineRequest("r", (1, 2, 3), 4, sampling=Sampling(0))
        assert [event async for event in model.handle.generate(request)]
    await library.unload("text")
    await library.unload("vectors")
    assert engines() == []


async def test_a_model_that_has_become_one_of_another_kind_is_refused(library, loader, tmp_path):
    link = tmp_path / "model"
    link.symlink_to(ROOT / "tests/golden/llama")
    await load(library, "m", link)
    async with asyncio.timeout(20):
        await loader.left.wait()
    link.unlink()
    link.symlink_to(BERT)
    with pytest.raises(InvalidModelFile, match="makes embeddings"):
        async with library.use("m"):
            pass
    assert engines() == []


async def test_a_load_that_is_given_up_leaves_no_thread_and_no_draft(library, tmp_path):
    events = library.load(Order("m", DEMO))
    await anext(events)
    await events.aclose()
    await load(library, "m", BERT)  # after the one that was given up
    assert engines() == ["narthex-embedder"]
    assert len([*(tmp_path / "cache" / "graphs").iterdir()]) == 1
