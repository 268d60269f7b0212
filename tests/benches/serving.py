"""A real HTTP server on this machine that does what servers do, good and bad."""

import http.server
import threading
import time
from contextlib import contextmanager


class Behaviour:
    """How one file is served, and what was asked of it.

    Attributes:
        cut: bytes after which a body breaks off; None for never.
        each: bytes after which each answer does.
        pause: seconds between one kilobyte and the next; None for all at once.
        hang: bytes after which nothing more comes, for `pause` seconds.
        ranges: whether Range is honoured.
        status: an error to answer with.
        asked: the Range header of each request.
        sent: bytes of body sent to each.
    """

    def __init__(self, body, cut=None, each=None, pause=None, hang=None, ranges=True, status=None):
        self.body, self.cut, self.each, self.pause, self.hang = body, cut, each, pause, hang
        self.ranges, self.status = ranges, status
        self.asked, self.sent = [], []


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        how = self.server.files.get(self.path.lstrip("/"))
        wanted = self.headers.get("Range")
        if how is not None:
            how.asked.append(wanted)
            how.sent.append(0)
        if how is None or how.status:
            return self.send_error(how.status if how else 404)
        start = int(wanted[6:-1]) if wanted and how.ranges else 0
        if start and start >= len(how.body):
            return self.send_error(416)
        self.send_response(206 if wanted and how.ranges else 200)
        if wanted and how.ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(how.body) - 1}/{len(how.body)}")
        self.send_header("Content-Length", str(len(how.body) - start))
        self.end_headers()
        self._send(how, how.body[start : how.cut][: how.each])

    def _send(self, how, body):
        step = 1024 if how.pause else 1 << 20
        try:
            for at in range(0, len(body), step):
                if how.pause and (how.hang is None or at >= how.hang):
                    time.sleep(how.pause)
                self.wfile.write(body[at : at + step])
                self.wfile.flush()
                how.sent[-1] += len(body[at : at + step])
        except OSError:
            pass  # the other side has left

    def log_message(self, *_):
        pass


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        pass


@contextmanager
def serving(**files):
    """Serve `files` (name -> Behaviour); yields the address to put a name behind."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.files = files
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
