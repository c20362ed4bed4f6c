"""The pure core of Headwater: no I/O, no clock, no asyncio, no Kafka, no model runtime."""
