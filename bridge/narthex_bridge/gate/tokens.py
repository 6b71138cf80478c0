"""Access tokens of OAuth as JSON Web Tokens (RFC 9068 and what common servers make of it)."""

import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import jwt
from narthex.scopes import ALL_TOOLS, ToolScope

from narthex_bridge.caller import Caller
from narthex_bridge.config.oauth import OauthConfig
from narthex_bridge.gate.issuers import Issuer, IssuerUnreachable, UnknownKey

__all__ = ["InvalidToken", "IssuerUnreachable", "LacksScope", "Tokens"]

TYPES = ("at+jwt", "jwt", "")
REMEMBERED = 4096
REMEMBERED_S = 60.0
_CLAIMS = ["exp", "iss", "aud", "sub"]
# What a decoder raises for hostile input: of its own, and of JSON, base64 and numbers within.
_BROKEN = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)


class InvalidToken(Exception):
    """The token is worth nothing here; `problem` is a sentence for its sender."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class LacksScope(Exception):
    """The token is valid, but not for this resource's scopes."""


@dataclass(frozen=True, slots=True)
class _Verified:
    caller: Caller
    until: float  # on the wall clock, as in tokens


class Tokens:
    """Verifies tokens of the configured issuers; a verified one is known again by its digest for a minute."""

    def __init__(self, config: OauthConfig) -> None:
        self._config = config
        self._issuers = {url: Issuer(url, config) for url in config.issuers}
        self._audiences = config.audiences or (config.resource,)
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()

    async def caller(self, token: str) -> Caller:
        """Whom the token speaks for. Raises InvalidToken, LacksScope, IssuerUnreachable."""
        digest, now = hashlib.sha256(token.encode()).digest(), time.time()
        if (known := self._verified.get(digest)) is not None and now < known.until:
            return known.caller
        claims = await self._claims(token)
        caller = self._caller(claims)
        self._verified[digest] = _Verified(caller, min(float(claims["exp"]), now + REMEMBERED_S))
        if len(self._verified) > REMEMBERED:
            self._verified.popitem(last=False)
        return caller

    async def close(self) -> None:
        for issuer in self._issuers.values():
            await issuer.close()

    async def _claims(self, token: str) -> Mapping[str, Any]:
        try:
            said = jwt.decode_complete(token, options={"verify_signature": False})
        except _BROKEN:
            raise InvalidToken("The token is not a JSON Web Token.") from None
        header, iss = said["header"], said["payload"].get("iss")
        kid, algorithm, kind = header.get("kid"), header.get("alg"), header.get("typ", "")
        if not isinstance(kind, str) or kind.lower().removeprefix("application/") not in TYPES:
            raise InvalidToken("The token is of another type than an access token (typ).")
        issuer = self._issuers.get(iss) if isinstance(iss, str) else None
        if issuer is None:
            raise InvalidToken("The token's issuer is not trusted here.")
        if not isinstance(kid, str | None) or not isinstance(algorithm, str):
            raise InvalidToken("The token's header is not one of a signed token.")
        try:
            key = await issuer.key(kid, algorithm)
            claims: Mapping[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],  # the issuer has no keys for others than asymmetric ones
                audience=self._audiences,
                issuer=issuer.url,
                leeway=self._config.leeway_s,
                options={"require": _CLAIMS, "enforce_minimum_key_length": True},
            )
        except UnknownKey:
            raise InvalidToken("The token is signed with a key that its issuer does not have.") from None
        except _BROKEN as error:
            raise InvalidToken(_problem(error)) from None
        if "cnf" in claims:
            raise InvalidToken("The token is bound to its sender (cnf), which cannot be checked here.")
        return claims

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        scopes = _scopes(claims)
        if not scopes.issuperset(self._config.scopes):
            raise LacksScope
        tenant = claims.get(self._config.tenant_claim) if self._config.tenant_claim else "default"
        if not _is_name(claims["sub"]) or not _is_name(tenant):
            raise InvalidToken("The token does not name its subject, or its tenant, in 1 to 255 printable characters.")
        # Subjects are unique within their issuer only, and no key's name is to be anyone's subject.
        return Caller(f"{claims['iss']} {claims['sub']}", tenant, self._tools(scopes))

    def _tools(self, scopes: frozenset[str]) -> ToolScope:
        prefix = self._config.tool_scope_prefix
        if not prefix:
            return ALL_TOOLS
        globs = sorted(scope.removeprefix(prefix) for scope in scopes if scope.startswith(prefix))
        try:
            return ToolScope(tuple(globs))
        except ValueError:
            raise InvalidToken("The token names more tools than can be looked after.") from None


def _is_name(claim: object) -> TypeGuard[str]:
    """Whether a claim can stand in metadata and in a line of a log; subjects are no longer than this (OpenID)."""
    return isinstance(claim, str) and 0 < len(claim) <= 255 and claim.isprintable()


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """Of `scope`, a text, or of `scp`, which some servers write instead, a text or a list."""
    said = claims.get("scope", claims.get("scp", ""))
    words = said.split() if isinstance(said, str) else said if isinstance(said, list) else []
    return frozenset(word for word in words if isinstance(word, str))


def _problem(error: Exception) -> str:
    match error:
        case jwt.ExpiredSignatureError():
            return "The token has expired."
        case jwt.ImmatureSignatureError():
            return "The token is not valid yet; the clocks may differ."
        case jwt.InvalidAudienceError():
            return "The token is meant for another audience than this resource."
        case jwt.MissingRequiredClaimError(claim=claim) if claim in _CLAIMS:
            return f"The token lacks the claim {claim}."
        case jwt.InvalidSignatureError():
            return "The token's signature is not its issuer's."
        case _:
            return "The token is not valid."
