"""The user table: Faust's Table and Store, changed to work in batches and never to skip a record.

Every change to Faust's tables lives here; each names what it replaces (faust-streaming 0.15.3).

- Values and changelog offset are one write of the ``StateStore`` (stores/rocksdb.py puts them one by one).
- The changelog is restored by ``streams.recovery``, not through the table.
- Databases are opened on assignment and closed on revocation (stores/rocksdb.py leaves closing to the
  garbage collector).
- The table is written by ``checkpoint.py`` only; Faust's item access would send one changelog record a key.
"""

# pyright: reportUnknownMemberType=false
# Faust's Table and Store are not typed throughout.

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

from faust import Table
from faust.stores.base import Store
from faust.types import TP

from streams.restore import Restorer
from streams.store import StateStore
from streams.topics import TABLE_NAME
from streams.transport import ChunkSchema

__all__ = ["UserStore", "UserTable"]


class UserStore(Store):  # type: ignore[type-arg]  # Faust's generic parameters have no defaults
    """Faust's view of the ``StateStore``: assignment, restore, persisted offsets."""

    def __init__(
        self,
        store: StateStore,
        restorer: Restorer,
        on_error: Callable[[BaseException], None],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.store = store
        self._restorer = restorer
        self._on_error = on_error

    def persisted_offset(self, tp: TP) -> int | None:
        return self.store.offset(tp.partition)

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        await self._restorer.cancel()
        topic = self.table.changelog_topic.get_topic_name()
        wanted = {tp.partition for tp in assigned if tp.topic == topic}
        try:
            # To close may flush and rewrite whole partitions, and heartbeats must go on.
            await asyncio.to_thread(self._hold, wanted)
        except Exception as error:
            self._fail(error)

    def _hold(self, wanted: set[int]) -> None:
        for partition in self.store.partitions - wanted:
            self.store.close(partition)
        for partition in sorted(wanted):
            self.store.open(partition)

    def apply_changelog_batch(self, batch: Iterable[Any], to_key: Any, to_value: Any) -> None:
        raise NotImplementedError("the changelog is read by the restorer")

    def _fail(self, error: BaseException) -> NoReturn:
        self._on_error(error)
        raise error

    async def on_stop(self) -> None:
        # For the same reason.
        await asyncio.to_thread(self.store.close_all)

    def reset_state(self) -> None:
        """Faust asks for this to start from nothing; ``StateStore.destroy`` is the deliberate way."""

    async def backup_partition(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError("the changelog is the backup")

    def restore_backup(self, *_: Any, **__: Any) -> None:
        raise NotImplementedError("the changelog is the backup")

    def __getitem__(self, key: Any) -> Any:
        raise NotImplementedError("the user table is read in batches, by the engine")

    def __setitem__(self, key: Any, value: Any) -> None:
        raise NotImplementedError("the user table is written in batches, by the checkpoint")

    def __delitem__(self, key: Any) -> None:
        raise NotImplementedError("the user table is written in batches, by the checkpoint")

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


class UserTable(Table):  # type: ignore[type-arg]  # Faust's generic parameters have no defaults
    """The table that makes Faust keep a changelog, restore it and co-locate it with the event topics."""

    def __init__(
        self,
        app: Any,
        store: StateStore,
        restorer: Restorer,
        on_error: Callable[[BaseException], None],
        partitions: int,
    ) -> None:
        super().__init__(app, name=TABLE_NAME, partitions=partitions, schema=ChunkSchema(allow_empty=True))
        self._state_store = store
        self._restorer = restorer
        self._on_error = on_error

    def _new_store(self) -> UserStore:
        return UserStore(
            self._state_store,
            self._restorer,
            self._on_error,
            "rocksdb://",
            self.app,
            self,
            table_name=self.name,
            loop=self.loop,
        )
