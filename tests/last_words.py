"""What a worker that ended by itself said of it."""

__all__ = ["the_only_error"]


def the_only_error(log: bytes, *told: str, of: str = "", beside: str = "") -> str:
    """The one line that is an error, which tells all of ``told``; there is no traceback.

    Args:
        of: only lines with this count.
        beside: lines with this do not.
    """
    text = log.decode()
    errors = [
        line for line in text.splitlines() if " ERROR " in line and of in line and not (beside and beside in line)
    ]
    assert len(errors) == 1, text[-5_000:]
    assert "Traceback" not in text, text[-5_000:]
    for each in told:
        assert each in errors[0]
    return errors[0]
