"""A small web site: a page, one that robots are kept off, and an API with its OpenAPI document."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

ARTICLE = (
    "<html><head><title>Tides</title></head><body><article><h1>Tides</h1>"
    "<p>The water at <b>Ostend</b> rises twice a day.</p></article></body></html>"
)
DOCUMENT = {
    "openapi": "3.1.0",
    "info": {"title": "Tides", "version": "1"},
    "servers": [{"url": "/"}],
    "paths": {
        "/tides/{port}": {
            "get": {
                "operationId": "getTide",
                "parameters": [{"name": "port", "in": "path", "required": True, "schema": {"type": "string"}}],
                "responses": {"200": {"description": "found"}},
            }
        }
    },
}
PAGES = {
    "/robots.txt": ("text/plain", "User-agent: *\nDisallow: /private/\n"),
    "/tides.html": ("text/html", ARTICLE),
    "/private/tides.html": ("text/html", ARTICLE),
    "/openapi.json": ("application/json", json.dumps(DOCUMENT)),
    "/tides/ostend": ("application/json", json.dumps({"high": "04:12"})),
}


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        kind, text = PAGES.get(self.path, ("text/plain", "there is nothing here"))
        self.send_response(200 if self.path in PAGES else 404)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def site() -> Iterator[str]:
    """Serves the pages; yields the URL without a slash at its end."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
