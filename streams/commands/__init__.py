"""The commands of ``headwater``; each imports what it needs when it runs, so that ``--help`` is quick."""

__all__: list[str] = []
