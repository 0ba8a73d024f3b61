"""Large bodies over HTTP or HTTPS, by range requests (RFC 9110, section 14), beside MQTT: threads of their own.

Only whole files that `bodies` has put there are served, by their SHA-256, to who has the federation's token.
"""

from __future__ import annotations

import hmac
import logging
import re
import ssl
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from fedthings.errors import TransportError

log = logging.getLogger("fedthings.server")

AT_ONCE = 128
"""Connections at once; who is refused (503) fetches over MQTT."""
PATIENCE = 20.0
"""Seconds that a connection may be silent."""

_BLOCK = 1 << 16  # bytes read at once
_RANGE = re.compile(r"bytes=(\d{1,18})-(\d{0,18})")


class Ranges:
    """A server of `files` (SHA-256 in hexadecimal -> file) on `port` (0: a free one), stopped by `close`.

    `certificate` and `key` are PEM files: with them it speaks HTTPS. Raises TransportError where it cannot listen.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        token: str,
        host: str = "",
        port: int = 0,
        certificate: str | Path | None = None,
        key: str | Path | None = None,
    ) -> None:
        try:
            self._server = _Server((host, port), _Handler, files, token)
            if certificate is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(certificate, key)
                # The handshake is made in the connection's own thread, not where all are accepted.
                self._server.socket = context.wrap_socket(
                    self._server.socket, server_side=True, do_handshake_on_connect=False
                )
        except (OSError, ValueError) as error:
            remedy = "name another with --http, and check --cert and --key"
            raise TransportError(f"bodies cannot be served on port {port} ({error}): {remedy}") from None
        self.scheme = "http" if certificate is None else "https"
        self.token = token
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, name="http", daemon=True).start()

    @property
    def place(self) -> str:
        """What an offer says: scheme and port; the host is the broker's."""
        return f"{self.scheme}:{self.port}"

    def close(self) -> None:
        """Listen no longer."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, place: tuple[str, int], handler: Any, files: Mapping[str, Path], token: str) -> None:
        super().__init__(place, handler)
        self.files, self.expected = files, f"Bearer {token}".encode()
        self.free = threading.BoundedSemaphore(AT_ONCE)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a download by %s ended early", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE
    server: _Server

    def handle(self) -> None:
        """Serve one connection, if there is room for it."""
        free = self.server.free.acquire(blocking=False)
        try:
            if free:
                super().handle()
        finally:
            if free:
                self.server.free.release()

    def do_GET(self) -> None:
        """Answer with a range of a body, or all of it."""
        if not hmac.compare_digest(self.headers.get("Authorization", "").encode(), self.server.expected):
            self._refuse(HTTPStatus.UNAUTHORIZED)
            return
        path = self.server.files.get(self.path.removeprefix("/"))
        try:
            file = path.open("rb") if path is not None else None
        except FileNotFoundError:
            file = None
        if file is None:
            self._refuse(HTTPStatus.NOT_FOUND)
            return
        with file:
            size = file.seek(0, 2)
            wanted = _RANGE.fullmatch(self.headers.get("Range", ""))
            start = int(wanted[1]) if wanted else 0
            stop = min(int(wanted[2]) + 1, size) if wanted and wanted[2] else size
            if start >= stop:
                self._refuse(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE)
                return
            self.send_response(HTTPStatus.PARTIAL_CONTENT if wanted else HTTPStatus.OK)
            if wanted:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{size}")
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Type", "application/cbor")
            self.send_header("Content-Length", str(stop - start))
            self.end_headers()
            file.seek(start)
            while start < stop and (data := file.read(min(_BLOCK, stop - start))):
                self.wfile.write(data)
                start += len(data)

    def _refuse(self, status: HTTPStatus) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the log free of each request."""
