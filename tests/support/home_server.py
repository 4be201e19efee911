"""A web server on the loopback address, as the home of a data set, that can be made to fail."""

import contextlib
import http.server
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``server.content`` by path, with ranges; ``server.drops`` are the bytes after which it hangs up."""

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range")))
        content = server.content.get(self.path)
        if content is None or server.status:
            self.send_error(server.status or 404)
            return
        first = 0
        if server.ranges and (wanted := self.headers.get("Range")):
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if first >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if server.tells_length:
            self.send_header("Content-Length", str(len(content) - first))
        self.end_headers()
        last = first + server.drops.pop(0) if server.drops else len(content)
        self.wfile.write(content[first:last])

    def log_message(self, *_):
        """Nothing."""


@contextlib.contextmanager
def serving(content):
    """A server with ``content``, by path, at ``server.url``; what it was asked is in ``server.requests``."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content, server.requests, server.drops = content, [], []
        server.ranges, server.tells_length, server.status = True, True, 0
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
