"""A fuzzer for access tokens: `python tests/fuzz/tokens.py -max_total_time=60`."""

import asyncio
import base64
import json
import logging

import atheris
from seeded import fuzz

with atheris.instrument_imports(include=["narthex_bridge.gate.tokens", "jwt"]):
    from narthex_bridge.config.oauth import OauthConfig
    from narthex_bridge.gate.tokens import InvalidToken, IssuerUnreachable, LacksScope, Tokens

ISSUER, AUDIENCE = "http://127.0.0.1:1", "https://tools.example/mcp"
SEEDS = (
    b'{"alg":"ES256","kid":"one","typ":"at+jwt"}\n{"iss":"http://127.0.0.1:1","sub":"ann","aud":"x","exp":1}',
    b'{"alg":"none"}\n{"iss":["http://127.0.0.1:1"],"scope":["tools:a*"],"org":"blue"}',
    b'{"alg":"HS256","kid":null,"crit":["b64"],"b64":false}\n{"iss":"http://127.0.0.1:1","scp":{"a":1},"sub":1}',
    b"a.b.c",
)
logging.disable(logging.CRITICAL)
LOOP = asyncio.new_event_loop()
TOKENS = Tokens(
    OauthConfig(
        issuers=(ISSUER,), resource=AUDIENCE, scopes=("mcp",), tenant_claim="org", tool_scope_prefix="tools:",
        timeout_s=0.2,
    )
)  # fmt: skip


def text(part: bytes) -> str:
    return base64.urlsafe_b64encode(part).rstrip(b"=").decode()


def check(data: bytes) -> None:
    """A token is refused in one of three ways, and a caller that claims make can be told to the server."""
    header, newline, claims = data.partition(b"\n")
    token = f"{text(header)}.{text(claims)}.{text(data[:64])}" if newline else data.decode("latin-1")
    try:
        LOOP.run_until_complete(TOKENS.caller(token))
        raise AssertionError("nobody signed this")
    except (InvalidToken, LacksScope, IssuerUnreachable):
        pass
    try:
        said = json.loads(claims)
    except (ValueError, RecursionError):
        return
    if isinstance(said, dict):
        try:
            caller = TOKENS._caller({"iss": ISSUER, "sub": "ann", **said})
        except (InvalidToken, LacksScope):
            return
        assert caller.assertion.isascii() and caller.assertion.isprintable()


if __name__ == "__main__":
    fuzz(check, SEEDS)
