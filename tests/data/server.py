# Copyright (c) torchgeo-m2cd contributors. All rights reserved.
# Licensed under the MIT License.

"""A web server for tests, with the byte ranges that GDAL asks for."""

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Handler(SimpleHTTPRequestHandler):
    """Send a file, or a part of it, whatever the query of the URL."""

    def do_GET(self) -> None:
        self._send(with_body=True)

    def do_HEAD(self) -> None:
        self._send(with_body=False)

    def log_message(self, *args: Any) -> None:
        """Log no requests."""

    def _send(self, with_body: bool) -> None:
        file = Path(self.translate_path(self.path))
        if not file.is_file():
            self.send_error(404)
            return
        data = file.read_bytes()
        found = re.fullmatch(r'bytes=(\d+)-(\d*)', self.headers.get('Range', ''))
        if found:
            first, last = int(found[1]), int(found[2] or len(data) - 1)
            self.send_response(206)
            self.send_header('Content-Range', f'bytes {first}-{last}/{len(data)}')
            data = data[first : last + 1]
        else:
            self.send_response(200)
        self.send_header('Accept-Ranges', 'bytes')
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        if with_body:
            self.wfile.write(data)


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine, and give its URL."""
    # rasterio waits for a server without letting other threads run
    command = [sys.executable, __file__, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f'http://127.0.0.1:{process.stdout.readline().strip()}'
        finally:
            process.terminate()


if __name__ == '__main__':
    handler = partial(Handler, directory=sys.argv[1])
    with ThreadingHTTPServer(('127.0.0.1', 0), handler) as server:
        print(server.server_port, flush=True)
        server.serve_forever()
