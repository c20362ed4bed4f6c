"""Is a Kafka broker answering there? A raw-socket look, so that this package needs no Kafka client."""

import contextlib
import random
import socket
import ssl
import struct
from typing import Final

from infra.broker.errors import BrokerError

__all__ = ["answers", "claim_port", "port_is_free"]

_LOOPBACK: Final = "127.0.0.1"
_API_VERSIONS: Final = 18
_METADATA: Final = 3
_CORRELATION: Final = 7
_RESPONSE_MAX_BYTES: Final = 1024 * 1024
# Below the range from which systems draw ports for outgoing connections: none of those takes it meanwhile.
_FREE_PORTS: Final = range(20_000, 32_000)


def answers(port: int, security: str = "PLAINTEXT", timeout_s: float = 1.0) -> bool:
    """Whether the broker on ``127.0.0.1:port`` is ready for clients.

    A plain listener has to list itself in its metadata; one that wants a login, to answer ApiVersions; one
    with TLS, to complete a handshake (the certificate is not looked at: nothing is sent afterwards).
    """
    try:
        with socket.create_connection((_LOOPBACK, port), timeout=timeout_s) as sock:
            sock.settimeout(timeout_s)
            if security in ("SSL", "SASL_SSL"):
                return _shakes_hands(sock)
            if security == "SASL_PLAINTEXT":
                return _ask(sock, _API_VERSIONS, 0, b"")[:2] == b"\x00\x00"
            return port in _ports_of(_ask(sock, _METADATA, 1, struct.pack(">i", 0)))
    except (OSError, struct.error):
        return False


def port_is_free(port: int) -> bool:
    """Whether a server could listen on ``127.0.0.1:port`` now."""
    with socket.socket() as sock, contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((_LOOPBACK, port))
        return True
    return False


def claim_port(port: int, what: str = "port", taken: int = 0) -> int:
    """``port`` itself if it is free, or a free one for 0, and not ``taken``; a :class:`BrokerError` otherwise."""
    if port == 0:
        for candidate in random.sample(_FREE_PORTS, 100):
            if candidate != taken and port_is_free(candidate):
                return candidate
        raise BrokerError(f"found no free {what} on {_LOOPBACK} in {_FREE_PORTS.start}-{_FREE_PORTS.stop - 1}")
    if not 0 < port < 65_536:
        raise BrokerError(f"{what} {port} is not between 1 and 65535")
    if port == taken or not port_is_free(port):
        raise BrokerError(f"{what} {port} on {_LOOPBACK} is taken: stop what listens there, or choose another")
    return port


def _shakes_hands(sock: socket.socket) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with context.wrap_socket(sock):
        return True


def _ask(sock: socket.socket, api: int, version: int, body: bytes) -> bytes:
    """One request with a version 1 header; the response after its correlation id."""
    request = struct.pack(">hhih", api, version, _CORRELATION, -1) + body
    sock.sendall(struct.pack(">i", len(request)) + request)
    (size,) = struct.unpack(">i", _read(sock, 4))
    if not 4 <= size <= _RESPONSE_MAX_BYTES:
        raise OSError(f"not a Kafka broker: a response of {size} bytes")
    response = _read(sock, size)
    if struct.unpack(">i", response[:4]) != (_CORRELATION,):
        raise OSError("not a Kafka broker: a response to another request")
    return response[4:]


def _read(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise OSError("the connection was closed")
        data += part
    return data


def _ports_of(metadata: bytes) -> list[int]:
    """The ports of the brokers in a Metadata v1 response: an array of (node id, host, port, rack)."""
    (count,), at, ports = struct.unpack_from(">i", metadata), 4, list[int]()
    for _ in range(count):
        (host_bytes,) = struct.unpack_from(">h", metadata, at + 4)
        at += 6 + host_bytes
        port, rack_bytes = struct.unpack_from(">ih", metadata, at)
        at += 6 + max(rack_bytes, 0)
        ports.append(port)
    return ports
