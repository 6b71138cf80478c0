"""All boards that anybody looks at."""

from collections.abc import Awaitable, Callable

from narthex_bridge.caller import Caller
from narthex_bridge.http.refusal import Refusal
from narthex_bridge.ui.board import Board
from narthex_bridge.ui.view import View

LIFETIME_S = 300.0
SILENCE_S = 15.0
"""The most between signs of life: the page takes four times that for a lost connection."""

Take = Callable[[], Awaitable[bytes]]


class Boards:
    """One for each caller, as long as somebody looks with its credential."""

    def __init__(self, take: Callable[[Caller], Take], keepalive_s: float, lifetime_s: float = LIFETIME_S) -> None:
        """`take` gives what makes a caller's snapshots."""
        self._take = take
        self._keepalive_s = min(keepalive_s, SILENCE_S)
        self._lifetime_s = lifetime_s
        self._boards: dict[Caller, Board] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._boards)

    def open(self, caller: Caller) -> View:
        """Somebody looks, until the view is closed. Raises Refusal where the process ends."""
        if self._closed:
            raise Refusal(503, "The bridge is shutting down.", (("retry-after", "1"),), reason="DRAINING")
        board = self._boards.get(caller)
        if board is None or board.closed:
            board = self._boards[caller] = Board(self._take(caller))
        board.viewers += 1
        return View(board, self._keepalive_s, self._lifetime_s, lambda: self._leave(caller, board))

    def close(self) -> None:
        """Ends all views, for good."""
        self._closed = True
        for board in self._boards.values():
            board.close()
        self._boards.clear()

    def _leave(self, caller: Caller, board: Board) -> None:
        board.viewers -= 1
        if not board.viewers:
            board.close()
            if self._boards.get(caller) is board:
                del self._boards[caller]
