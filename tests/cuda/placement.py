"""Prints where ONNX Runtime puts the nodes of models: JSON {model: {provider: [operator, …]} or {"refused": why}}."""

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import onnxruntime as ort
from narthex_server.cuda import PagedGraphs
from narthex_server.errors import NotOnDevice
from narthex_server.graphs import Variant
from narthex_server.opening import open_model
from narthex_server.progress import unheard
from narthex_server.runtime.cache import GraphCache
from narthex_server.runtime.device import find_cuda

GOLDEN = Path(__file__).parents[1] / "golden"


def placed(graph: Path) -> dict[str, list[str]]:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(graph, options, providers=[("CUDAExecutionProvider", {"enable_cuda_graph": "1"})])
    nodes: dict[str, list[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        nodes.setdefault(part.ep_name, []).extend(node.op_type for node in part.get_nodes())
    return nodes


def main(compute: str, models: list[str]) -> None:
    find_cuda(0)
    found: dict[str, object] = {}
    with TemporaryDirectory() as folder:
        for name in models:
            source = open_model(GOLDEN / name)
            graphs = PagedGraphs(GraphCache(Path(folder)), source, str(source.config["model_type"]), 256, unheard)
            try:
                found[name] = placed(graphs.find(Variant.PAGED, compute))
            except NotOnDevice as reason:
                found[name] = {"refused": reason.message}
    print(json.dumps(found))


main(sys.argv[1], sys.argv[2:])
