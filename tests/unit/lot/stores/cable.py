"""What lies between a server and its database, and can be cut."""

import asyncio
from contextlib import suppress
from pathlib import Path

NAME = ".s.PGSQL.5432"
CHUNK = 1 << 16


class Cable:
    """A socket in `folder` that leads to the database's in `far`.

    `before` cuts the connection when its text is asked for, `after` when it has been answered: each once.
    """

    def __init__(self, folder: Path, far: Path) -> None:
        self.url = f"postgresql://postgres@/postgres?host={str(folder).replace('/', '%2F')}"
        self.before = self.after = b""
        self.cuts = 0
        self.broken = False
        self._near, self._far = folder / NAME, far / NAME
        self._ends: set[asyncio.StreamWriter] = set()
        self._leading: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def lay(self) -> None:
        def connect(asked: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
            leading = asyncio.create_task(self._lead(asked, answer))
            self._leading.add(leading)
            leading.add_done_callback(self._leading.discard)

        self._server = await asyncio.start_unix_server(connect, self._near)

    async def close(self) -> None:
        assert self._server is not None
        self.cut()
        self._server.close()
        await self._server.wait_closed()
        await asyncio.gather(*self._leading)

    def cut(self) -> None:
        """All connections."""
        for end in list(self._ends):
            end.transport.abort()

    async def _lead(self, asked: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        if self.broken:
            answer.transport.abort()
            return
        answered, ask = await asyncio.open_unix_connection(self._far)
        ends = {answer, ask}
        self._ends |= ends
        waiting = asyncio.Event()

        async def there() -> None:
            while chunk := await asked.read(CHUNK):
                if self.before and self.before in chunk:
                    self.before = b""
                    break
                if self.after and self.after in chunk:
                    self.after = b""
                    waiting.set()
                ask.write(chunk)
                await ask.drain()

        async def back() -> None:
            while chunk := await answered.read(CHUNK):
                if waiting.is_set():
                    break
                answer.write(chunk)
                await answer.drain()

        with suppress(OSError):
            ways = [asyncio.create_task(there()), asyncio.create_task(back())]
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            self.cuts += 1
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
        for end in ends:
            end.transport.abort()
        self._ends -= ends
