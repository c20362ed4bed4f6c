"""What goes wrong with a broker."""

__all__ = ["BrokerError"]


class BrokerError(RuntimeError):
    """A broker could not be had or has gone; the message says what to do about it."""
