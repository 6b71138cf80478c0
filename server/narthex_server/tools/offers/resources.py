"""The resources of upstreams, each under a URI that means one thing."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from narthex_server.errors import DeadlineExceeded, NotFound, Unavailable, UpstreamRefused
from narthex_server.tools.names import qualified_uri, unqualified_uri
from narthex_server.tools.offers.inspection import Inspection
from narthex_server.tools.resource import Contents, Resource, ResourceTemplate
from narthex_server.tools.server import ResourceServer, ServerState
from narthex_server.tools.tool import CallContext, InputRequired
from narthex_server.tools.uri_pattern import UriPattern


@dataclass(frozen=True, slots=True)
class Place:
    """Where a resource or a template is, and what its server calls it."""

    server: ResourceServer
    uri: str


class ResourceOffers:
    """Resources and templates by URI, listed and read.

    URIs are the servers' own. Of two servers that list the same one the first in the order of the configuration keeps
    it, and the other's is `<server>+<uri>`, as which every resource is understood.
    """

    def __init__(self, inspection: Inspection | None = None) -> None:
        self._inspection = inspection or Inspection()
        self._servers: tuple[ResourceServer, ...] = ()
        self._resources: dict[str, Place] = {}
        self._templates: dict[str, Place] = {}
        self._patterns: tuple[tuple[UriPattern, ResourceServer], ...] = ()
        self._listed: tuple[Resource, ...] = ()
        self._listed_templates: tuple[ResourceTemplate, ...] = ()

    @property
    def listed(self) -> tuple[Resource, ...]:
        """What can be read now; what is of a server that is down is left out."""
        return self._listed

    @property
    def templates(self) -> tuple[ResourceTemplate, ...]:
        """As `listed`, for the families of resources."""
        return self._listed_templates

    def places(self, uri: str) -> tuple[Place, ...]:
        """Where this resource is or, if nobody says that it has it, may be; the likeliest first."""
        return tuple(dict.fromkeys(self._claims(uri))) or tuple(self._guesses(uri))

    def template_place(self, uri_template: str) -> Place:
        """Where a template, or one resource, is; raises NotFound."""
        place = self._templates.get(uri_template) or self._resources.get(uri_template)
        if place := place or next(self._qualified(uri_template), None):
            return place
        raise resource_not_found(uri_template)

    async def read(
        self, uri: str, server: str, context: CallContext, may: Callable[[Place], bool] = lambda place: True
    ) -> Contents | InputRequired:
        """What the resource holds; `server` names the upstream to ask, where several know the URI.

        Asked are only places that `may` be asked.

        A URI that is not listed is asked of the server it is qualified with, of those with a template that fits, and
        then of all others, until one knows it.

        Raises:
            NotFound: no server knows it, or there is no such server.
            Unavailable, DeadlineExceeded, UpstreamRefused: its upstream is down, too slow, or fails.
        """
        claims = tuple(dict.fromkeys([self._at(server, uri)] if server else self._claims(uri)))
        for place in filter(may, claims):
            with suppress(NotFound):
                return _as_asked(uri, place.uri, await place.server.read(place.uri, context))
        trouble: Unavailable | DeadlineExceeded | None = None
        for place in () if server else self._guesses(uri):
            if place in claims or not may(place):
                continue
            try:
                return await place.server.read(uri, context)
            except (NotFound, UpstreamRefused):  # who does not know a URI says so in many ways
                continue
            except (Unavailable, DeadlineExceeded) as error:
                trouble = trouble or error
        raise trouble or resource_not_found(uri)

    def refresh(self, servers: Iterable[ResourceServer]) -> None:
        """Builds the tables again."""
        self._servers = tuple(servers)
        self._resources, resources = {}, []
        self._templates, templates = {}, []
        patterns = []
        for server in self._servers:
            ready = server.status.state is ServerState.READY
            for resource in self._inspection.resources(server, server.resources):
                uri = _take(self._resources, Place(server, resource.uri))
                if uri and ready:
                    resources.append(replace(resource, uri=uri, server=server.name))
            for template in self._inspection.templates(server, server.templates):
                patterns.append((UriPattern(template.uri_template), server))
                uri = _take(self._templates, Place(server, template.uri_template))
                if uri and ready:
                    templates.append(replace(template, uri_template=uri, server=server.name))
        self._patterns = tuple(patterns)
        self._listed, self._listed_templates = tuple(resources), tuple(templates)

    def _claims(self, uri: str) -> Iterator[Place]:
        if (listed := self._resources.get(uri)) is not None:
            yield listed
            return
        yield from self._qualified(uri)
        for pattern, server in self._patterns:
            if pattern.matches(uri):
                yield Place(server, uri)

    def _qualified(self, uri: str) -> Iterator[Place]:
        for server in self._servers:
            if own := unqualified_uri(server.name, uri):
                yield Place(server, own)

    def _guesses(self, uri: str) -> Iterator[Place]:
        for server in self._servers:
            if server.has_resources and server.status.state is ServerState.READY:
                yield Place(server, uri)

    def _at(self, name: str, uri: str) -> Place:
        for server in self._servers:
            if server.name == name:
                return Place(server, unqualified_uri(name, uri) or uri)
        raise NotFound(f"there is no upstream named {name[:200]!r}", reason="UPSTREAM_NOT_FOUND")


def _take(taken: dict[str, Place], place: Place) -> str:
    """Puts the place under its URI, or a qualified one; returns that, or nothing if both are taken."""
    for uri in (place.uri, qualified_uri(place.server.name, place.uri)):
        if (holder := taken.setdefault(uri, place)) is place:
            return uri
        if holder.server is place.server:
            break  # the server lists one twice
    return ""


def _as_asked(uri: str, own_uri: str, found: Contents | InputRequired) -> Contents | InputRequired:
    """The contents under URIs like the one that was asked for."""
    head = uri.removesuffix(own_uri)
    if not head or isinstance(found, InputRequired):
        return found
    return replace(found, parts=tuple(replace(part, uri=head + part.uri) for part in found.parts))


def resource_not_found(uri: str) -> NotFound:
    """What is said of a URI that nobody knows, or that its caller may not know of."""
    return NotFound(f"there is no resource {uri[:200]!r}", reason="RESOURCE_NOT_FOUND", metadata={"uri": uri[:1000]})
