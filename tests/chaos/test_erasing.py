"""No crash between any two steps undoes an erasure; the seeds of ``tests.chaos.erasing`` that CI has time for."""

from tests.chaos.erasing import simulate


def test_no_crash_undoes_an_erasure() -> None:
    worlds = [simulate(seed) for seed in range(250)]
    assert sum(world.crashes for world in worlds) > 200
    assert sum(len(world.sources["erase"]) for world in worlds) > 500
