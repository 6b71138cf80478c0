"""The page's words for a refusal."""

import orjson

from narthex_bridge.http.messages import HttpResponse
from narthex_bridge.http.refusal import Refusal


class UiFace:
    """`{"error": {"message", "reason"}}`, which the page shows."""

    def refuse(self, refusal: Refusal) -> HttpResponse:
        told = {"message": refusal.text, "reason": refusal.reason}
        return HttpResponse(refusal.status, orjson.dumps({"error": told}), headers=refusal.headers)
