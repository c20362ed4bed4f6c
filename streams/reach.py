"""Reaching a broker over TLS: the one context that every client uses, and why a broker could not be reached."""

import socket
import ssl
import struct
from typing import Final

from streams.settings import BrokerSettings, SettingsError

__all__ = ["identity", "not_allowed", "ssl_context", "why_unreachable"]

_TIMEOUT_S: Final = 3.0
_PORT_DEFAULT: Final = "9092"
_ASKED: Final = struct.pack(">ihhih", 10, 18, 0, 0, -1)
"""A whole request: ApiVersions 0 of no named client, which a broker answers before any login."""


def ssl_context(broker: BrokerSettings) -> ssl.SSLContext | None:
    """The TLS context of ``broker``: certificates and host names are checked; None without TLS.

    Raises:
        SettingsError: a certificate or key file cannot be read.
    """
    if not broker.security_protocol.endswith("SSL"):
        return None
    try:
        context = ssl.create_default_context(cafile=broker.tls_ca_file)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"broker.tls_ca_file: {_unreadable(broker.tls_ca_file, error)}") from None
    if broker.tls_certificate_file is not None:
        try:
            context.load_cert_chain(broker.tls_certificate_file, broker.tls_key_file)
        except (OSError, ssl.SSLError) as error:
            named = f"{broker.tls_certificate_file} or {broker.tls_key_file}"
            raise SettingsError(
                f"broker.tls_certificate_file, broker.tls_key_file: {_unreadable(named, error)}"
            ) from None
    return context


def _unreadable(path: str | None, error: OSError) -> str:
    reason = "it is not PEM" if isinstance(error, ssl.SSLError) else error.strerror
    return f"cannot use {path} ({reason})"


def why_unreachable(broker: BrokerSettings) -> str:
    """What a client that got no connection should be told: the cause, a semicolon, the next step.

    Clients report every failure alike; a look at the address itself tells silence from a broker that hangs, from a
    certificate that is not trusted, and from a login that is refused.
    """
    causes = [_cause(broker, address.strip()) for address in broker.address.split(",")]
    return next((cause for cause in causes if cause is not None), _login_refused(broker))


def _cause(broker: BrokerSettings, address: str) -> str | None:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host or address, int(port or _PORT_DEFAULT)), _TIMEOUT_S) as plain:
            context = ssl_context(broker)
            if context is None:
                return _silence(plain, address)
            with context.wrap_socket(plain, server_hostname=host) as encrypted:
                return _silence(encrypted, address)
    except ssl.SSLCertVerificationError as error:
        return (
            f"the broker at {address} shows a certificate that is not trusted ({error.verify_message});"
            " set broker.tls_ca_file to the certificate of the authority that signed it"
        )
    except ssl.SSLError as error:
        return (
            f"the broker at {address} does not speak TLS with us ({error.reason or error});"
            f" broker.security_protocol is {broker.security_protocol}: use that of the listener"
        )
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        return (
            f"no Kafka broker answers at {address} ({reason});"
            " start one with `headwater broker` or set HEADWATER_BROKER"
        )


def _silence(connection: socket.socket, address: str) -> str | None:
    try:
        connection.sendall(_ASKED)
        connection.recv(1)
    except ConnectionError:  # hung up on us: that is an answer
        return None
    except TimeoutError:
        return (
            f"what listens at {address} takes connections but has not answered in {_TIMEOUT_S:g} s: it hangs, or has"
            " too much to do; see to it, or set HEADWATER_BROKER to another broker"
        )
    return None


def _login_refused(broker: BrokerSettings) -> str:
    if not broker.security_protocol.startswith("SASL"):
        return (
            f"what listens at {broker.address} does not answer as Kafka over {broker.security_protocol};"
            " set broker.security_protocol to that of the listener, or HEADWATER_BROKER to a broker"
        )
    return (
        f"the broker at {broker.address} refuses the login of {broker.sasl_username!r} by {broker.sasl_mechanism};"
        " check HEADWATER_BROKER_SASL_USERNAME, the password and broker.sasl_mechanism"
    )


def identity(broker: BrokerSettings) -> str:
    """Whom the broker takes us for."""
    return f"user {broker.sasl_username!r}" if broker.security_protocol.startswith("SASL") else "this client"


def not_allowed(broker: BrokerSettings, error: BaseException) -> str:
    """A client's authorization error with its next step; the broker changed its mind, or only part was allowed."""
    words = str(error).replace("\n", " ")
    return (
        f"the broker stopped {identity(broker)}: {words}; nothing of the batch in work was acknowledged."
        " Allow what is missing (`headwater topics acls worker --apply`) and start again"
    )
