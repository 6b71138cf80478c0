"""Which endpoint answers."""

import pytest
from narthex_bridge.http.routes import Found, Route, Routes
from narthex_bridge.mcp.face import McpFace


class OtherFace(McpFace):
    pass


async def _endpoint(_):
    raise NotImplementedError


LIST, ONE, COUNT = (
    Route(method, pattern, _endpoint, McpFace())
    for method, pattern in (("GET", "/v1/models"), ("GET", "/v1/models/{id}"), ("POST", "/v1/models/count"))
)
ROUTES = Routes([ONE, LIST, COUNT])


@pytest.mark.parametrize(
    ("method", "path", "route", "named"),
    [
        ("GET", "/v1/models", LIST, {}),
        ("GET", "/v1/models/a", ONE, {"id": "a"}),
        ("GET", "/v1/models/a/b c", ONE, {"id": "a/b c"}),
        ("POST", "/v1/models/count", COUNT, {}),
    ],
)
def test_paths_come_before_patterns(method, path, route, named):
    found = ROUTES.find(method, path)
    assert found is not None and (found.route, found.path) == (route, named)


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/v1/models"), ("GET", "/v1/models/"), ("GET", "/v1"), ("DELETE", "/v1/models/a")]
)
def test_everything_else_is_somebody_elses(method, path):
    assert ROUTES.find(method, path) is None


def test_a_name_may_stand_before_more_of_the_path():
    cancel, one = (Route("POST", pattern, _endpoint, McpFace()) for pattern in ("/r/{id}/cancel", "/r/{id}"))
    routes = Routes([cancel, one])
    assert routes.find("POST", "/r/a/cancel") == Found(cancel, {"id": "a"})
    assert routes.find("POST", "/r/cancel") == Found(one, {"id": "cancel"})
    for path in ("/r/cancel", "/r//cancel", "/r/a/cancel/b"):
        assert Routes([cancel]).find("POST", path) is None


def test_a_path_without_a_route_is_refused_in_the_words_of_the_most_similar_one():
    other = OtherFace()
    routes = Routes([LIST, ONE, Route("POST", "/v1/messages", _endpoint, other)])
    assert routes.face("/v1/messages/x") is other and routes.face("/v1/messages") is other
    assert routes.face("/nothing") is LIST.face and routes.face("") is LIST.face
