"""Every RPC of the contract has an answer, and options that are not built are refused."""

import pytest
from narthex.v1 import common_pb2, image_pb2
from narthex_server.errors import Unimplemented
from narthex_server.services.call import check_options
from narthex_server.services.complete import complete
from narthex_server.services.registration import contract


def test_the_contract_has_all_eight_services():
    assert sorted(service.name for service in contract()) == [
        "EmbeddingService", "GenerationService", "ImageService", "LotService",
        "ModelService", "SpeechService", "ToolService", "UpstreamService",
    ]  # fmt: skip


@pytest.mark.parametrize("service", contract(), ids=lambda service: service.name)
async def test_an_rpc_that_is_not_built_names_itself(service):
    servicer = complete(service)(type(service.name, (), {}))()
    for method in service.methods:
        with pytest.raises(Unimplemented, match=f"{service.name}.{method.name}"):
            if method.server_streaming:
                [_ async for _ in getattr(servicer, method.name)(None, None)]
            else:
                await getattr(servicer, method.name)(None, None)


def test_what_is_built_stays():
    @complete(image_pb2.DESCRIPTOR.services_by_name["ImageService"])
    class Built:
        def GenerateImage(self, request, context):
            return "mine"

    assert Built().GenerateImage(None, None) == "mine"


@pytest.mark.parametrize(
    "options",
    [
        common_pb2.CallOptions(idempotency_key="x"),
        common_pb2.CallOptions(on_disconnect=common_pb2.ON_DISCONNECT_PARK),
    ],
)
def test_a_promise_that_cannot_be_kept_is_not_made(options):
    with pytest.raises(Unimplemented, match="options"):
        check_options(options, None)
