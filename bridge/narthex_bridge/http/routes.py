"""Which endpoint answers a request, and in whose words it is refused."""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from narthex_bridge.http.messages import HttpRequest, HttpResponse
from narthex_bridge.http.refusal import Face

Endpoint = Callable[[HttpRequest], Awaitable[HttpResponse]]


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a pattern: a path, or one with a `{name}`, which stands for all that is there, also `/`.

    An `open` route needs no credential.
    """

    method: str
    pattern: str
    endpoint: Endpoint
    face: Face
    open: bool = False

    @property
    def prefix(self) -> str:
        """What comes before the name."""
        return self.pattern.partition("{")[0]

    @property
    def name(self) -> str:
        """The name in the pattern; empty where there is none."""
        return self.pattern.partition("{")[2].partition("}")[0]

    @property
    def suffix(self) -> str:
        """What comes after the name."""
        return self.pattern.partition("}")[2]

    def named(self, path: str) -> str:
        """What the name stands for in a path; empty where the pattern is not the path's."""
        if not path.startswith(self.prefix) or not path.endswith(self.suffix):
            return ""
        return path[len(self.prefix) : len(path) - len(self.suffix)]


@dataclass(frozen=True, slots=True)
class Found:
    """A route, and what the name in its pattern stands for."""

    route: Route
    path: Mapping[str, str]


class Routes:
    """Paths are looked up; patterns are tried in their order after that."""

    def __init__(self, routes: Sequence[Route]) -> None:
        """At least one."""
        self._routes = tuple(routes)
        self._paths = {(route.method, route.pattern): Found(route, {}) for route in routes if not route.name}
        self._patterns = tuple(route for route in routes if route.name)

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes)

    def find(self, method: str, path: str) -> Found | None:
        found = self._paths.get((method, path))
        if found is not None:
            return found
        for route in self._patterns:
            if route.method == method and (named := route.named(path)):
                return Found(route, {route.name: named})
        return None

    def methods(self, path: str) -> tuple[str, ...]:
        """Those that a path has routes for."""
        known = dict.fromkeys(route.method for route in self._routes)
        return tuple(method for method in known if self.find(method, path) is not None)

    def face(self, path: str) -> Face:
        """Whose words a path without a route is refused in: those of the route that is most like it."""
        return max(self._routes, key=lambda route: _shared(route.pattern, path)).face


def _shared(pattern: str, path: str) -> int:
    """How many segments they have in common, from the first on."""
    pairs = zip(pattern.split("/"), path.split("/"), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
