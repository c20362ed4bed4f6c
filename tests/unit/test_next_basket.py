import numpy as np
import pytest

torch = pytest.importorskip("torch")

from models.dataset import Purchases, split_bounds  # noqa: E402
from models.next_basket import NextBasketTask, next_basket_task  # noqa: E402

WEEK_MS = 7 * 24 * 3600 * 1000


def task() -> tuple[Purchases, NextBasketTask]:
    """Twelve households, a basket of four items in each of thirty weeks."""
    rng = np.random.default_rng(0)
    week, user = (column.ravel() for column in np.divmod(np.arange(30 * 12).repeat(4), 12))
    item = np.concatenate([rng.permutation(25)[:4] for _ in range(30 * 12)])
    ones = np.ones(len(week), np.int64)
    names = [f"i{n}" for n in range(25)]
    data = Purchases(
        [f"u{n}" for n in range(12)], names, user, item, week * WEEK_MS + 1, ones * 1.0, ones, 100 * user + week
    )
    made = next_basket_task(data, seed=0, count_min=1, validation_users_share=1.0, batch_events=200, retyped_share=0.0)
    return data, made


def test_batches_shuffle_inside_a_basket_and_ask_for_the_next_one() -> None:
    data, made = task()
    baskets = {
        (u, w): {made.items.index(f"i{i}") for i in data.item[data.basket == 100 * u + w].tolist()}
        for u in range(12)
        for w in range(30)
    }
    rng = np.random.default_rng(1)
    seen: list[int] = []
    for users in made.plan(rng):
        batch = made.batch(users, rng)
        assert len(batch.rows) < 200 + 14 * 4  # one household may go over
        length = len(batch.waves)  # all households are equally long here: wave t is event t of each
        columns = batch.rows.reshape(length, -1)
        for column, user in enumerate(users.tolist()):
            for week in range(length // 4):
                here = columns[4 * week : 4 * week + 4, column].tolist()
                assert set(here) == baskets[user, week]
        for asked, place in enumerate(batch.places.tolist()):
            step, column = divmod(place, len(users))
            assert step % 4 == 3  # after a whole basket
            wanted = batch.pair_row[batch.pair_position == asked]
            assert set(wanted.tolist()) == baskets[int(users[column]), step // 4 + 1]
        assert (made.batch(users, rng).rows != batch.rows).any()  # in another order next time
        seen += users.tolist()
    assert sorted(seen) == list(range(12))


def test_each_split_has_the_baskets_of_its_weeks() -> None:
    data, made = task()
    validation_ms, test_ms = split_bounds(data.timestamp_ms)
    times = made.sequences.timestamp_ms
    for tasks, start, end in (
        (made.train, 0, validation_ms),
        (made.held_out["validation"], validation_ms, test_ms),
        (made.held_out["test"], test_ms, 2**62),
    ):
        following = times[tasks.before + 1]
        assert ((start <= following) & (following < end)).all()
        assert len(tasks.before) == sum(start <= time < end for time in set(times.tolist()) - {1}) * 12
    assert (times[made.train_ends - 1] < validation_ms).all()
    user, rows = made.events()
    assert len(user) == len(rows) == int((times < validation_ms).sum())
