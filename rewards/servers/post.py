"""One POST, bounded in time and size."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from urllib.parse import urlsplit

_LARGEST_ANSWER = 1 << 24
_MAY_PASS = (408, 425, 429)


class Failed(Exception):
    """No answer, or none that can be used; another try may have one. The message is one line."""


class Refused(Failed):
    """A status by which the server says that the request itself is wrong."""


def post(url: str, body: bytes, *, timeout_s: float) -> bytes:
    """The body of the answer to a JSON request. Follows no redirect and asks no proxy.

    Args:
        url: http:// or https:// address.
        body: JSON.
        timeout_s: from connecting to the last byte, however slowly bytes come.

    Raises:
        Failed: no connection, a broken or late answer, more than 16 MB, a status that is not 2xx.
        Refused: a status 4xx that waiting does not change.
    """
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection, late = kind(parts.hostname or "", parts.port, timeout=timeout_s), threading.Event()
    opened: list[socket.socket] = []

    def give_up() -> None:
        late.set()
        for sock in opened:
            # Whoever waits for bytes wakes up. Not the method of the SSL socket, which takes its state away as well.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = threading.Timer(timeout_s, give_up)
    timer.daemon = True
    timer.start()
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.connect()
        opened.append(connection.sock)  # the connection forgets it once it has read the headers
        if late.is_set():
            raise TimeoutError
        connection.request("POST", target, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text, status = answer.read(_LARGEST_ANSWER + 1), answer.status
    except Exception as error:  # sockets, SSL and the parser of headers each have their own
        if late.is_set() or isinstance(error, TimeoutError):
            raise Failed(f"no answer within {timeout_s:g} s") from error
        raise Failed(_line(str(error)) or type(error).__name__) from error
    finally:
        timer.cancel()
        connection.close()
    if late.is_set():
        raise Failed(f"no answer within {timeout_s:g} s")
    if not 200 <= status < 300:
        refused = 400 <= status < 500 and status not in _MAY_PASS
        first = _line(text[:200].decode(errors="replace"))
        raise (Refused if refused else Failed)(f"status {status} {first}".strip())
    if len(text) > _LARGEST_ANSWER:
        raise Failed(f"it answered more than {_LARGEST_ANSWER >> 20} MB")
    return text


def _line(text: str) -> str:
    return " ".join(text.split())[:200]
