"""A fuzzer that follows coverage, for the parser of messages: `python tests/fuzz/jsonrpc.py -max_total_time=60`."""

import sys

import atheris

with atheris.instrument_imports(include=["narthex_bridge.protocol"]):
    from narthex_bridge.protocol import envelope, methods
    from narthex_bridge.protocol.eras import ERAS
    from narthex_bridge.protocol.jsonrpc import Request, RpcError, parse

SEEDS = (
    b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","arguments":{"x":[1,"\\u00e9"]}}}',
    b'[{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"a"}}]',
    b'{"jsonrpc":"2.0","id":"a","result":{"action":"accept"}}',
    b'{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"p","_meta":'
    b'{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}}}',
)


def check(body: bytes) -> None:
    """Anything but RpcError is a fault."""
    try:
        parsed = parse(body)
    except RpcError:
        return
    for message in parsed if isinstance(parsed, list) else [parsed]:
        if isinstance(message, Request):
            for era in ERAS.values():
                try:
                    methods.read(message, era)
                    envelope.read(message, {})
                except RpcError:
                    continue


if __name__ == "__main__":
    for seed in SEEDS:
        check(seed)
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
