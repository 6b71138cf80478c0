"""/.well-known/oauth-protected-resource: where clients get tokens for this bridge (RFC 9728)."""

import orjson

from narthex_bridge.config.oauth import OauthConfig
from narthex_bridge.http.messages import HttpRequest, HttpResponse


class MetadataEndpoint:
    """The same document for the resource and for the whole host, which has no other resource."""

    def __init__(self, config: OauthConfig) -> None:
        document: dict[str, object] = {
            "resource": config.resource,
            "authorization_servers": config.issuers,
            "bearer_methods_supported": ["header"],
            "resource_name": "narthex",
        }
        if config.scopes:
            document["scopes_supported"] = config.scopes
        self._body = orjson.dumps(document)

    async def get(self, http: HttpRequest) -> HttpResponse:
        return HttpResponse(200, self._body, headers=(("cache-control", "max-age=300"),))
