"""Notifications that answer no request."""

from narthex_bridge.protocol import jsonrpc
from narthex_bridge.protocol.effects import Listen
from narthex_bridge.protocol.jsonrpc import Id
from narthex_bridge.protocol.results import SUBSCRIPTION


def list_changed(kind: str, subscription: Id | None = None) -> bytes:
    """A list is another one; `subscription` is the id of the request that listens, in stateless eras."""
    return jsonrpc.notification(f"notifications/{kind}/list_changed", _tagged(subscription) or None)


def updated(uri: str, subscription: Id | None = None) -> bytes:
    """A watched resource has changed."""
    return jsonrpc.notification("notifications/resources/updated", {**_tagged(subscription), "uri": uri})


def acknowledged(listen: Listen, subscription: Id) -> bytes:
    """The first message to one who listens: what it will hear of."""
    heard: dict[str, object] = {f"{kind}ListChanged": True for kind in listen.kinds}
    if listen.uris:
        heard["resourceSubscriptions"] = list(listen.uris)
    return jsonrpc.notification(
        "notifications/subscriptions/acknowledged", {**_tagged(subscription), "notifications": heard}
    )


def _tagged(subscription: Id | None) -> dict[str, object]:
    return {} if subscription is None else {"_meta": {SUBSCRIPTION: subscription}}
