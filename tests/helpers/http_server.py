"""A web server for tests of downloads."""

import contextlib
import functools
import http.server
import threading


@contextlib.contextmanager
def serve(folder):
    """Serves a folder on this machine; yields its address and the list of paths that were requested."""
    requested = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            requested.append(self.path)
            super().do_GET()

    handler = functools.partial(Handler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", requested
        server.shutdown()
        thread.join()
