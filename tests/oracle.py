"""A user's state in plain Python, written from the contract of ``fold`` and sharing no code with it."""

from dataclasses import dataclass, field, replace

__all__ = ["HISTORY_EVENTS", "OracleEvent", "OracleUser"]

HISTORY_EVENTS = 50


@dataclass(frozen=True)
class OracleEvent:
    """One event as the producer sent it."""

    type: int
    offset: int
    item: str
    time_ms: int
    id: str | None = None

    @property
    def step(self) -> tuple[str, int, int]:
        """What the encoder sees of it, besides the gap."""
        return self.item, self.type, self.time_ms


@dataclass
class OracleUser:
    """What must be known of one user after some batches."""

    fences: dict[int, int] = field(default_factory=dict[int, int])
    history: list[OracleEvent] = field(default_factory=list[OracleEvent])
    steps: list[tuple[str, int, int]] = field(default_factory=list[tuple[str, int, int]])
    """The events that the recurrent state is the pass of."""
    model: str = ""
    folded: int = 0
    duplicates: int = 0
    late: int = 0

    def copy(self) -> "OracleUser":
        """An independent copy."""
        return replace(self, fences=dict(self.fences), history=list(self.history), steps=list(self.steps))

    def apply(self, batch: list[OracleEvent], model: str) -> None:
        """One batch: in event-time order, events below the fence or of a known id are not folded."""
        fences_before = dict(self.fences)
        rebuilt = self.model != model
        steps: list[tuple[str, int, int]] | None = [e.step for e in self.history] if rebuilt else list(self.steps)
        for e in sorted(batch, key=lambda e: (e.time_ms, e.type, e.offset)):
            self.fences[e.type] = max(self.fences.get(e.type, 0), e.offset + 1)
            known_ids = {h.id for h in self.history if h.id is not None}
            if e.offset < fences_before.get(e.type, 0) or e.id in known_ids:
                self.duplicates += 1
                continue
            if len(self.history) == HISTORY_EVENTS and e.time_ms < self.history[0].time_ms:
                self.late += 1
                continue
            self.folded += 1
            later = [h for h in self.history if h.time_ms > e.time_ms]
            earlier = [h for h in self.history if h.time_ms <= e.time_ms]
            self.history = [*earlier, e, *later][-HISTORY_EVENTS:]
            steps = None if steps is None or later else [*steps, e.step]
        self.steps = [e.step for e in self.history] if steps is None else steps
        if self.history:
            self.model = model
