"""Other frameworks on Headwater's job, each as its own documentation recommends; every module runs as a process."""

__all__: list[str] = []
