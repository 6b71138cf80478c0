"""The routes of the page."""

from narthex_bridge.http.messages import HttpRequest, HttpResponse, event_stream
from narthex_bridge.http.routes import Route
from narthex_bridge.ui.boards import Boards
from narthex_bridge.ui.face import UiFace
from narthex_bridge.ui.files import Files


def ui_routes(boards: Boards) -> list[Route]:
    """Everything under /ui: the files, which tell nothing and are for everybody, and what is shown, for its caller."""
    face, files = UiFace(), Files.of_package()
    return [
        Route("GET", "/ui", files.page, face, open=True),
        Route("GET", "/ui/", files.unslashed, face, open=True),
        Route("GET", "/ui/status", StatusEndpoint(boards).get, face),
        Route("GET", "/ui/{file}", files.get, face, open=True),
    ]


class StatusEndpoint:
    """What the caller may see, now and after each change."""

    def __init__(self, boards: Boards) -> None:
        self._boards = boards

    async def get(self, http: HttpRequest) -> HttpResponse:
        view = self._boards.open(http.caller)
        return event_stream(view, view.tally)
