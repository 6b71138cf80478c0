"""Which endpoint answers a request, and in whose words it is refused."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from narthex_bridge.faces.refusal import Face
from narthex_bridge.http import HttpRequest, HttpResponse

Endpoint = Callable[[HttpRequest], Awaitable[HttpResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a pattern: a path, or one that ends with `{name}`, which stands for all that follows, also `/`.

    `key_header` names a header that may carry the API key instead of Authorization; empty: none does.
    """

    method: str
    pattern: str
    endpoint: Endpoint
    face: Face
    key_header: str = ""

    @property
    def prefix(self) -> str:
        """What comes before the name."""
        return self.pattern.partition("{")[0]

    @property
    def name(self) -> str:
        """The name in the pattern; empty where there is none."""
        return self.pattern.partition("{")[2].rstrip("}")


@dataclass(frozen=True, slots=True)
class Found:
    """A route, and what the name in its pattern stands for."""

    route: Route
    path: Mapping[str, str]


class Routes:
    """Paths are looked up; patterns are tried in their order after that."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._paths = {(route.method, route.pattern): Found(route, {}) for route in routes if not route.name}
        self._patterns = tuple(route for route in routes if route.name)

    def find(self, method: str, path: str) -> Found | None:
        found = self._paths.get((method, path))
        if found is not None:
            return found
        for route in self._patterns:
            if route.method == method and path.startswith(route.prefix) and len(path) > len(route.prefix):
                return Found(route, {route.name: path[len(route.prefix) :]})
        return None
