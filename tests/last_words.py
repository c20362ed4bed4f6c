"""What a worker that ended by itself said of it."""

__all__ = ["the_only_error"]


def the_only_error(log: bytes, *told: str) -> str:
    """The one line of Headwater's own that is an error and tells all of ``told``; there is no traceback."""
    text = log.decode()
    errors = [line for line in text.splitlines() if " streams." in line and " ERROR " in line]
    assert len(errors) == 1, text[-5_000:]
    assert "Traceback" not in text, text[-5_000:]
    for each in told:
        assert each in errors[0]
    return errors[0]
