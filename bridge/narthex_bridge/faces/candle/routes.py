"""The routes of this face."""

from narthex_bridge.faces.candle.mailbox import MailboxEndpoint
from narthex_bridge.faces.candle.queues import QueuesEndpoint
from narthex_bridge.faces.openai.face import OpenAiFace
from narthex_bridge.http.routes import Route
from narthex_bridge.server.lot import Lot


def candle_routes(lot: Lot) -> list[Route]:
    """The lot, for programs that know it by these paths; errors look like OpenAI's there, too."""
    face = OpenAiFace()
    mailbox, queues = MailboxEndpoint(lot), QueuesEndpoint(lot)
    return [
        Route("GET", "/v1/mailbox", mailbox.list, face),
        Route("GET", "/v1/mailbox/{id}", mailbox.get, face),
        Route("DELETE", "/v1/mailbox/{id}", mailbox.delete, face),
        Route("GET", "/v1/queues", queues.list, face),
        Route("GET", "/v1/queues/{model}", queues.get, face),
    ]
