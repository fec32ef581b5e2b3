"""Whether something listens where a driver needs it, found out in seconds where Ray would try for minutes."""

import os
import re
import socket

from bench.core.errors import UserError

KNOCK_S = 10.0  # how long the head of a cluster may take to accept a connection
HTTP2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)  # with which gRPC begins
HTTP2_SETTINGS = b"\x04"  # the kind of frame that it is answered with

Place = tuple[str, int] | str
"""A host and a port, or the path of a socket."""


def answers(place: Place) -> bool:
    """Whether something listens there."""
    try:
        if isinstance(place, str):
            with socket.socket(socket.AF_UNIX) as daemon:
                daemon.connect(place.removeprefix("unix://"))
        else:
            socket.create_connection(place, timeout=KNOCK_S).close()
    except OSError:
        return False
    return True


def knock(address: str) -> None:
    """Raises UserError when nothing listens at host:port, or something that does not speak Ray's protocol."""
    place = re.fullmatch(r"([^/]+):(\d{1,5})", address)
    if place is None:
        return
    try:
        with socket.create_connection((place[1], int(place[2])), timeout=KNOCK_S) as connection:
            connection.sendall(HTTP2_PREFACE)
            answer = connection.recv(9)
    except (OSError, OverflowError) as error:
        raise UserError(f"no Ray cluster can be joined at {address}: {error}") from error
    if answer[3:4] != HTTP2_SETTINGS and os.environ.get("RAY_USE_TLS", "0") == "0":
        raise UserError(f"no Ray cluster can be joined at {address}: something else listens there")
