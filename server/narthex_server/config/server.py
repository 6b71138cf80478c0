"""What a server process may be told: parsed once at the door, passed down as frozen values."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from narthex.settings import Address, NamedPath, NamedText, NamedUrl, SettingsError, option, parse

from narthex_server.config.agent import Agent
from narthex_server.config.audit import Audit
from narthex_server.config.cache import CacheSettings
from narthex_server.config.catalog import CatalogSettings
from narthex_server.config.connections import Connections
from narthex_server.config.demo import DEMO_MODEL, demo_folder, demo_upstreams
from narthex_server.config.document import read_document
from narthex_server.config.lot import LotSettings
from narthex_server.config.remote import Remote
from narthex_server.config.sessions import Sessions
from narthex_server.config.tls import Tls
from narthex_server.config.tracing import Tracing
from narthex_server.config.upstream import UpstreamSettings
from narthex_server.sync.locks import Mode

Compute = Literal["auto", "float32", "block8", "int8", "float16", "bfloat16"]
KvCache = Literal["float32", "int8"]
Quantize = Literal[
    "q8_0", "q6_k", "q5_k", "q4_k", "q3_k", "q2_k", "q5_1", "q5_0", "q4_1", "q4_0",
    "q6k", "q5k", "q4k", "q3k", "q2k", "8", "6", "5", "4", "3", "2",
]  # fmt: skip
LogLevel = Literal["debug", "info", "warning", "error"]

DEVICE = re.compile(r"auto|cpu|cuda(:\d{1,4})?")
DELEGATE_TOKEN_VARIABLE = "NARTHEX_DELEGATE_TOKEN"


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The settings of one server process; sizes in bytes, times in seconds, lengths in tokens."""

    grpc: Address = option(Address("127.0.0.1", 50051), "where gRPC listens; port 0 takes a free one")
    metrics: Address = option(Address("127.0.0.1", 9464), "where /metrics listens; port 0 takes a free one")
    model: tuple[NamedPath | NamedUrl, ...] = option(
        (), "a model folder, .gguf or .onnx file, or openai+URL for one of a remote engine; repeatable",
        metavar="NAME=PATH",
    )  # fmt: skip
    model_key_file: tuple[NamedPath, ...] = option(
        (), "a file with the API key for a remote model; repeatable", metavar="MODEL=FILE"
    )
    model_key_variable: tuple[NamedText, ...] = option(
        (), "the environment variable with the API key for a remote model; repeatable", metavar="MODEL=VARIABLE"
    )
    default_model: str = option("", "the model that an empty name means, where several are served", metavar="NAME")
    model_root: Path | None = option(None, "the folder below which callers may name models to load", metavar="DIR")
    idle_unload: float = option(
        0.0, "seconds without requests after which a model leaves the memory; 0 never", minimum=0
    )
    mcp_config: Path | None = option(None, "the MCP servers to forward: an mcp-config.json")
    device: str = option("cpu", "cpu, cuda, cuda:N, or auto for a GPU where one can be used", metavar="DEVICE")
    compute: Compute = option(
        "auto",
        "float32 is exact, block8 uses int8 activations on quantised weights, int8 also rounds whole channels of the "
        "weights and is faster with several requests and for prompts; on a GPU float16 or bfloat16",
    )
    kv_cache: KvCache = option("float32", "int8 takes a quarter of the memory and is not exact")
    quantize: Quantize | None = option(None, "quantise the weights of a folder as they are loaded", metavar="KIND")
    topology: Path | None = option(None, "other formats for some layers or tensors: a YAML file")
    threads: int = option(0, "threads of the engine; 0 takes all cores that the process may use", minimum=0)
    max_slots: int = option(8, "sequences that decode together, per model", minimum=1)
    max_context: int = option(8192, "tokens of prompt and answer per sequence, at most", minimum=16)
    prefill_chunk: int = option(256, "tokens of a prompt that run between two decode steps", minimum=1)
    kv_memory: int = option(0, "bytes of keys and values, per model; 0 shares out what is free", minimum=0)
    longest_pause: float = option(
        0.04, "seconds that a prompt may hold up running streams at a time; more answers sooner, less flows smoother",
        minimum=0,
    )  # fmt: skip
    speculate: bool = option(True, "guess tokens from what the text repeats, where that is faster")
    max_waiting: int = option(256, "requests that may wait for their turn, per model", minimum=0)
    max_message_bytes: int = option(16 * 1024 * 1024, "the largest gRPC message, either way", minimum=1024)
    max_concurrent_calls: int = option(1024, "RPCs in flight; more are answered RESOURCE_EXHAUSTED", minimum=1)
    tool_timeout: float = option(60.0, "seconds a forwarded call may take, if its upstream does not say", minimum=0.01)
    upstream_start_timeout: float = option(30.0, "seconds an upstream may take to start", minimum=0.01)
    shutdown_grace: float = option(10.0, "seconds running calls have to finish after SIGTERM", minimum=0)
    tokenizer: tuple[NamedPath, ...] = option(
        (), "a folder whose tokenizer and template a model uses instead of its own; repeatable", metavar="MODEL=PATH"
    )
    adapter: tuple[NamedPath, ...] = option(
        (), "a LoRA folder to load on a model, the only one if none is named; repeatable", metavar="[MODEL/]NAME=PATH"
    )
    max_adapters: int = option(0, "adapters per model; 0 loads models without room for any", minimum=0)
    max_adapter_rank: int = option(256, "the highest rank of an adapter", minimum=1)
    max_adapter_bytes: int = option(1 << 30, "the most bytes of an adapter's factors", minimum=1)
    adapter_root: Path | None = option(None, "the folder below which callers may name adapters to load")
    xlora: tuple[NamedPath, ...] = option((), "an X-LoRA folder on top of a model; repeatable", metavar="MODEL=PATH")
    xlora_frozen_after: int = option(
        0, "generated tokens after which an X-LoRA keeps its scalings; 0 is never", minimum=0
    )
    cache_dir: Path = option(
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "narthex",
        "the graph cache",
        metavar="DIR",
        made=True,
    )
    api_key_file: Path | None = option(None, "accept only these keys (made by `narthex keys new`)")
    policy: Path | None = option(None, "the rules that tool calls have to keep, TOML; followed while it changes")
    log_level: LogLevel = option("info", "the least that is logged, on stderr")
    locks: Mode = option("metered", "how locks count; off: not at all; plain: the standard library's in their place")
    lock_watchdog: float = option(
        0.0, "to debug: log orders of locks that can deadlock, and locks held or waited for so many seconds; 0 never",
        minimum=0,
    )  # fmt: skip
    tls: Tls = Tls()
    remote: Remote = Remote()
    connections: Connections = field(default_factory=Connections)
    catalog: CatalogSettings = CatalogSettings()
    cache: CacheSettings = field(default_factory=CacheSettings)
    lot: LotSettings = field(default_factory=LotSettings)
    agent: Agent = Agent()
    sessions: Sessions = Sessions()
    upstream: UpstreamSettings = UpstreamSettings()
    audit: Audit = Audit()
    otel: Tracing = Tracing()

    def __post_init__(self) -> None:
        if (self.tls.cert is None) != (self.tls.key is None):
            raise SettingsError("tls: cert and key belong together; give both or neither")
        if self.tls.client_ca and not self.tls.cert:
            raise SettingsError("tls: client_ca needs cert and key")
        if not DEVICE.fullmatch(self.device):
            raise SettingsError(f"--device: {self.device!r} is none of auto, cpu, cuda, cuda:N")
        names = [model.name for model in self.model]
        if twice := {name for name in names if names.count(name) > 1}:
            raise SettingsError(f"--model: the name {min(twice)!r} is given twice")
        if self.catalog.lazy and self.catalog.search == "off":
            raise SettingsError("catalog: lazy needs the search, which is off")
        self._check_remotes()
        if self.xlora or self.adapter or self.tokenizer or self.default_model:
            self._check_names({model.name for model in self.models()})

    def _check_remotes(self) -> None:
        remotes = {model.name: model for model in self.remote_models()}
        for named in remotes.values():
            if named.holds_secret:
                raise SettingsError(
                    f"--model: the URL of {named.name!r} holds a user, a password or a query; give a key with "
                    f"--model-key-file {named.name}=FILE or --model-key-variable {named.name}=VARIABLE"
                )
        keyed = [file.name for file in self.model_key_file]
        keyed += [variable.name for variable in self.model_key_variable]
        for name in keyed:
            if name not in remotes:
                raise SettingsError(f"--model-key-file, --model-key-variable: there is no remote model {name!r}")
            if keyed.count(name) > 1:
                raise SettingsError(f"--model-key-file, --model-key-variable: {name!r} has more than one key")

    def _check_names(self, served: set[str]) -> None:
        known = ", ".join(sorted(served))
        if self.default_model and self.default_model not in served and self.model_root is None:
            raise SettingsError(f"--default-model: there is no model {self.default_model!r}; served are: {known}")
        served -= {model.name for model in self.remote_models()}  # which their own servers equip
        known = ", ".join(sorted(served))
        for option_name, given in (("--xlora", self.xlora), ("--tokenizer", self.tokenizer)):
            for named in given:
                if named.name not in served:
                    raise SettingsError(f"{option_name}: there is no model {named.name!r}; loaded here are: {known}")
        for named in self.adapter:
            model = named.name.rpartition("/")[0]
            if model not in served and (model or len(served) != 1):
                raise SettingsError(f"--adapter: {named.name!r} must be MODEL/NAME with one of the models {known}")

    @property
    def demo(self) -> bool:
        """Whether the embedded demo is served: neither models nor upstreams were named."""
        return not self.model and self.mcp_config is None and self.model_root is None

    def models(self) -> tuple[NamedPath | NamedUrl, ...]:
        """The models to serve: the named ones, or the demo's; none for a tool gateway."""
        return (NamedPath("demo", demo_folder() / DEMO_MODEL),) if self.demo else self.model

    def local_models(self) -> tuple[NamedPath, ...]:
        """Those of them that this process loads."""
        return tuple(model for model in self.models() if isinstance(model, NamedPath))

    def remote_models(self) -> tuple[NamedUrl, ...]:
        """Those of them that other servers run."""
        return tuple(model for model in self.model if isinstance(model, NamedUrl))

    def model_key(self, name: str) -> str:
        """The API key of a remote model, empty where it needs none. Errors: SettingsError where it cannot be read."""
        for file in self.model_key_file:
            if file.name == name:
                return _key(_read_key(file.path), f"--model-key-file {name}={file.path}")
        for variable in self.model_key_variable:
            if variable.name == name:
                return _key(os.environ.get(variable.text, ""), f"--model-key-variable {name}={variable.text}")
        return ""

    def upstreams(self) -> Mapping[str, Any]:
        """The document that names the MCP servers to forward (mistral.rs's or the `mcpServers` form) or {}."""
        if self.demo:
            return demo_upstreams()
        return read_document(self.mcp_config) if self.mcp_config else {}


def _read_key(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as error:
        raise SettingsError(f"--model-key-file: {path} cannot be read: {type(error).__name__}") from error


def _key(text: str, where: str) -> str:
    """A key that a header can carry; what it is not told, not even where it is no key."""
    key = text.strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(f"{where}: holds no API key, which is one word of visible ASCII characters")
    return key


def from_command_line(argv: Sequence[str] | None = None) -> ServerConfig:
    """The configuration of this process; a mistake is told on stderr and exits with 2."""
    return parse(
        ServerConfig,
        "server",
        argv,
        prog="narthex server",
        description="Serve models and MCP tools over gRPC. Without --model and --mcp-config it serves the demo.",
    )
