"""The part of loading that is for NVIDIA GPUs: what to compute in, graphs over paged caches, and their session."""

from typing import TYPE_CHECKING

from narthex_server.errors import NotOnDevice
from narthex_server.graphs import HALF, Graphs, Variant
from narthex_server.models import families
from narthex_server.progress import Stage
from narthex_server.runtime.device import Cuda
from narthex_server.runtime.paged.cuda import CudaGraph
from narthex_server.runtime.paged.session import PagedDecoderSession
from narthex_server.runtime.session import Shape

if TYPE_CHECKING:
    from narthex_server.graph.builder import GraphBuilder


def settle(wanted: str, device: Cuda) -> str:
    """What a GPU computes in; `auto` is bfloat16 where it can, because models are trained in its range.

    Errors: NotOnDevice.
    """
    if wanted == "auto":
        return "bfloat16" if device.bfloat16 else "float16"
    if wanted not in HALF:
        raise NotOnDevice(f"compute {wanted} is for the CPU; choose auto, {' or '.join(HALF)} on {device}")
    if wanted == "bfloat16" and not device.bfloat16:
        major, minor = device.capability
        raise NotOnDevice(f"{device} has compute capability {major}.{minor}, and bfloat16 needs 8.0; choose float16")
    return wanted


class PagedGraphs(Graphs):
    """Those of a model that generates over paged caches."""

    def add(self, graph: "GraphBuilder", variant: Variant) -> None:
        """Errors: NotOnDevice for a model that needs what CUDA graphs cannot have."""
        import onnx_ir as ir

        from narthex_server.graph import paged
        from narthex_server.graph.adapters import NoAdapters

        if variant is Variant.COPY:
            return paged.copy_graph(graph)
        family = families.family(self.model_type)
        config = family.config(self.source.config)
        tokens = graph.input("tokens", ir.DataType.INT64, (1, "length"))
        attention = paged.PagedAttention(graph, self.max_len)
        family.model(config, self.source.weights, graph, attention, NoAdapters()).generate(tokens)
        paged.check(graph)
        paged.name_best(graph, config.vocab)


def open_paged(graphs: PagedGraphs, compute: str, shape: Shape, device: Cuda) -> PagedDecoderSession:
    """A session on a GPU. Errors: NotOnDevice, ResourceExhausted."""
    plain, copy = graphs.find(Variant.PAGED, compute), graphs.find(Variant.COPY, compute)
    graphs.progress(Stage.START, 0.0)
    return PagedDecoderSession(CudaGraph(plain, copy, device), shape)
