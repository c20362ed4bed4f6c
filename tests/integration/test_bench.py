"""Every bench once, tiny and on the embedded broker: that it runs and answers, not what it measures."""

from streams.bench import freshness, recovery, state


def test_freshness() -> None:
    options = freshness.FreshnessOptions(
        loads=(0.5, 1.0),
        seconds=1.0,
        warm_up_s=0.2,
        rounds=1,
        broker="embedded",
        capacity_per_s=200.0,
        trace_events=500,
        yield_after_s=1e-3,
    )
    result = freshness.run(options, lambda _: None)
    assert [each["load"] for each in result["loads"]] == [0.5, 1.0]
    for each in result["loads"]:
        assert each["offered_per_s"] == 200.0 * each["load"]
        assert 0 < each["p50_ms"] <= each["p99_ms"] <= each["p999_ms"]
        assert each["worker_ms_per_batch"]["settle"] > 0
        assert each["events_per_batch"] >= each["lists_per_batch"] > 0
        assert each["yielded_share"] > 0, "no event reaches its batch within a millisecond of its time"
    freshness.show(result)


def test_state() -> None:
    result = state.run(state.StateOptions(events=9_000, rounds=1, broker="embedded"), lambda _: None)
    assert result["events_per_s"] > result["lists_per_s"] > 0
    assert result["state_bytes"] > 300
    state.show(result)


def test_recovery() -> None:
    result = recovery.run(recovery.RecoveryOptions(users=400, broker="embedded", partitions=2), lambda _: None)
    assert result["restore_records_per_s"] > 0
    assert result["killed_restored_records"] == 400, "nothing was flushed before the kill"
    assert min(result["cold_ready_s"], result["killed_ready_s"], result["warm_ready_s"]) > 0
    assert min(result["reading_alone_per_s"], result["writing_alone_per_s"]) > 0
    recovery.show(result)
