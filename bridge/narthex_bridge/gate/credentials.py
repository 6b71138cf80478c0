"""Who sends a request, by what it shows: an API key or an access token."""

from collections.abc import Mapping

from narthex_bridge.caller import LOCAL, Caller
from narthex_bridge.gate.challenges import Challenges
from narthex_bridge.gate.keys import Keys
from narthex_bridge.gate.tokens import InvalidToken, IssuerUnreachable, LacksScope, Tokens


class Credentials:
    """Reads them from headers alone: what is in a URL ends up in logs and histories."""

    def __init__(self, keys: Keys | None, tokens: Tokens | None, challenges: Challenges) -> None:
        self._keys = keys
        self._tokens = tokens
        self._challenges = challenges

    async def caller(self, headers: Mapping[str, str]) -> Caller:
        """The caller; everybody is local where nothing needs to be shown. Raises Refused."""
        if self._keys is None and self._tokens is None:
            return LOCAL
        given = headers.get("authorization", "")
        scheme, _, token = given.partition(" ")
        if not given:  # the header in which clients of Anthropic's API send their key
            token = headers.get("x-api-key", "")
        elif scheme.lower() != "bearer":
            raise self._challenges.invalid("The scheme of Authorization must be Bearer.")
        token = token.strip()
        if not token:
            raise self._challenges.missing()
        if self._keys is not None and (caller := self._keys.caller(token)) is not None:
            return caller
        if self._tokens is not None and token.count(".") == 2:
            return await self._by_token(self._tokens, token)
        if self._keys is not None and self._keys.expired(token):
            raise self._challenges.invalid("This API key has expired.")
        raise self._challenges.invalid("This credential is not known.")

    async def close(self) -> None:
        if self._tokens is not None:
            await self._tokens.close()

    async def _by_token(self, tokens: Tokens, token: str) -> Caller:
        try:
            return await tokens.caller(token)
        except InvalidToken as error:
            raise self._challenges.invalid(error.problem) from None
        except LacksScope:
            raise self._challenges.insufficient() from None
        except IssuerUnreachable:
            raise self._challenges.unverifiable() from None
