"""The generated stubs with a plain synchronous servicer, by pytest-grpc's fixtures: they serve no grpc.aio ones."""

import socket

import grpc
import pytest
from narthex.v1 import model_pb2, tool_pb2, tool_pb2_grpc


class EchoTools(tool_pb2_grpc.ToolServiceServicer):
    """What a third party's servicer of the contract looks like: one tool, `echo`."""

    def ListTools(self, request, context):
        return tool_pb2.ListToolsResponse(tools=[tool_pb2.Tool(name="echo", input_schema=b'{"type": "object"}')])

    def CallTool(self, request, context):
        if request.name != "echo":
            context.abort(grpc.StatusCode.NOT_FOUND, f"no tool {request.name}")
        yield tool_pb2.CallToolResponse(progress=tool_pb2.Progress(progress=1))
        yield tool_pb2.CallToolResponse(result=tool_pb2.ToolResult(structured_content=request.arguments))


@pytest.fixture(scope="module")
def grpc_addr():
    """pytest-grpc's own fixture leaves its socket open, which is a warning, which is an error here."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.fixture(scope="module")
def grpc_add_to_server():
    return tool_pb2_grpc.add_ToolServiceServicer_to_server


@pytest.fixture(scope="module")
def grpc_servicer():
    return EchoTools()


@pytest.fixture(scope="module")
def grpc_stub_cls(grpc_channel):
    return tool_pb2_grpc.ToolServiceStub


def test_a_list_comes_back(grpc_stub):
    assert [tool.name for tool in grpc_stub.ListTools(tool_pb2.ListToolsRequest()).tools] == ["echo"]


def test_a_stream_ends_with_the_result_and_bytes_pass_unparsed(grpc_stub):
    large = b'{"n": 123456789012345678901234567890}'  # a Struct would corrupt it
    events = list(grpc_stub.CallTool(tool_pb2.CallToolRequest(name="echo", arguments=large)))
    assert [event.WhichOneof("event") for event in events] == ["progress", "result"]
    assert events[-1].result.structured_content == large


def test_a_status_reaches_the_caller(grpc_stub):
    with pytest.raises(grpc.RpcError) as caught:
        list(grpc_stub.CallTool(tool_pb2.CallToolRequest(name="none")))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_a_method_that_is_not_there_is_unimplemented(grpc_channel):
    method = grpc_channel.unary_unary(
        "/narthex.v1.ModelService/ListModels",
        request_serializer=model_pb2.ListModelsRequest.SerializeToString,
        response_deserializer=model_pb2.ListModelsResponse.FromString,
    )
    with pytest.raises(grpc.RpcError) as caught:
        method(model_pb2.ListModelsRequest())
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
