"""A plain server for comparison: request threads and a batching loop share structures, each behind a lock.

    python -m bench.peers.plain --grpc 127.0.0.1:0 --model NAME=PATH …   (the options of `narthex server`)

What differs from narthex is how threads go together, and nothing else: gRPC's own thread pool, a thread a request, and
ordinary locks around the queue of requests, the slot table, the adapters, the models and the state of sampling. The
session, the scheduler, the sampler, the tokenizer, the template and the pipeline of a chat are narthex's. It serves
ChatStream and CallTool and leaves out all that a server needs besides: keys, policy, audit, tracing, metrics of calls.
"""

import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
from narthex.settings import NamedPath
from narthex.v1 import generation_pb2_grpc, tool_pb2_grpc
from narthex_server.config.server import ServerConfig, from_command_line
from narthex_server.engine.options import EngineOptions
from narthex_server.loading import LoadOptions, load
from narthex_server.metrics.locks import LockMetrics
from narthex_server.metrics.registry import new_registry, served
from narthex_server.runtime.adapter_bank import Limits
from narthex_server.sync.locks import Locks

from bench.peers.plain.engine import PlainEngine
from bench.peers.plain.model import PlainModel
from bench.peers.plain.model_router import ModelRouter
from bench.peers.plain.services import PlainGeneration, PlainTools
from bench.peers.plain.upstream import PlainUpstream

WORKERS = 64
"""More than there are chats, so that none waits for a thread."""


def started(named: NamedPath, config: ServerConfig, locks: Locks) -> PlainModel:
    """A model with its adapters, and its engine at work."""
    room = max(config.max_adapters, len(config.adapter))
    limits = Limits(room, config.max_adapter_rank, config.max_adapter_bytes) if room else None
    options = LoadOptions(
        config.compute, config.threads, config.max_slots, config.max_context, config.cache_dir, limits,
        kv=config.kv_cache,
    )  # fmt: skip
    loaded = load(named.path, options)
    knobs = EngineOptions(
        config.prefill_chunk, config.max_waiting, speculate=config.speculate, longest_pause=config.longest_pause
    )
    engine = PlainEngine(loaded.session, knobs, locks)
    for adapter in config.adapter:
        engine.adapters.load(adapter.name, adapter.path)
    engine.start()
    return PlainModel(named.name, engine, loaded.text)


def upstreams(config: ServerConfig, locks: Locks, stack: ExitStack) -> dict[str, PlainUpstream]:
    """Started, and stopped with the stack."""
    found = {}
    for name, server in config.upstreams().get("mcpServers", {}).items():
        found[name] = PlainUpstream((server["command"], *server["args"]), locks)
        stack.callback(found[name].stop)
    return found


def main() -> int:
    config, registry, ended = from_command_line(), new_registry(), threading.Event()
    locks = Locks(config.locks)
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    LockMetrics(registry, locks.readings)
    router = ModelRouter(locks)
    with ExitStack() as stack:
        metrics = stack.enter_context(served(registry, config.metrics))
        tools = PlainTools(upstreams(config, locks, stack))
        for named in config.local_models():
            model = started(named, config, locks)
            stack.callback(model.engine.stop)
            router.add(model)
        server = grpc.server(ThreadPoolExecutor(WORKERS))
        generation_pb2_grpc.add_GenerationServiceServicer_to_server(PlainGeneration(router), server)
        tool_pb2_grpc.add_ToolServiceServicer_to_server(tools, server)
        port = server.add_insecure_port(str(config.grpc))
        server.start()
        stack.callback(lambda: server.stop(1).wait())
        where = f"grpc={config.grpc.host}:{port} metrics={config.metrics.host}:{metrics}"
        print(f"plain ready {where}", flush=True)
        ended.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
