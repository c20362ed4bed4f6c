"""Command-line clients of the topics; ``streams.clients.kafka`` is the only one that talks to Kafka."""

__all__: list[str] = []
