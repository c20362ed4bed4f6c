"""``headwater bench``: what the pipeline does in a second, beside a plain Faust agent and the limits of its parts."""

__all__: list[str] = []
