"""A local server in a thread."""

import threading
from contextlib import contextmanager


@contextmanager
def running(server):
    """Serve until the block ends."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
