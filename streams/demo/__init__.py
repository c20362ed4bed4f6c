"""The demonstration: a month of real purchases through a broker and a worker, then one household's list, live."""

from streams.demo.run import DemoOptions, DemoReport, run

__all__ = ["DemoOptions", "DemoReport", "run"]
