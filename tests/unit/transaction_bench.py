"""A transactional producer whose broker is a script, for tests of transactions and of their requests."""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false
# aiokafka keeps its transactions to itself, and is not typed throughout.

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final

from aiokafka.producer.transaction_manager import TransactionState
from aiokafka.structs import TopicPartition

from streams.protocol import GroupMember
from streams.transactions import TransactionalProducer

MEMBER: Final = GroupMember("group", 7, "member-1")
VIEW, CLICK = TopicPartition("view", 0), TopicPartition("click", 0)
OWNER: Final = "app-transaction-1"
READY, OPEN = TransactionState.READY, TransactionState.IN_TRANSACTION

Step = Callable[[], Coroutine[Any, Any, None]]


class Scripted(TransactionalProducer):
    """A producer with an id of its own, whose group takes offsets and whose transactions end at once.

    ``on_offsets``, ``on_commit`` and ``on_abort`` are what the broker does; each may raise or wait.
    """

    def __init__(self) -> None:
        super().__init__(OWNER, bootstrap_servers="127.0.0.1:1")
        self._closed = True  # nothing was opened
        self.calls: list[Any] = []
        self.manager: Any = self._txn_manager
        self.sender: Any = self._sender
        self.manager.set_pid_and_epoch(5, 2)
        self.on_offsets: Step = self.nothing
        self.on_commit: Step = self.nothing
        self.on_abort: Step = self.nothing

    async def nothing(self) -> None:
        """The broker agrees."""

    async def send_offsets_to_transaction(self, offsets: Any, group_id: str) -> None:
        self.calls.append(("offsets", offsets, group_id))
        await self.on_offsets()

    async def commit_transaction(self) -> None:
        self.manager.committing_transaction()
        self.calls.append("commit")
        await self.on_commit()
        self.manager.complete_transaction()

    async def abort_transaction(self) -> None:
        self.manager.aborting_transaction()
        self.calls.append("abort")
        await self.on_abort()
        self.manager.complete_transaction()


def scripted(use: Callable[[Scripted], Coroutine[Any, Any, None]]) -> Scripted:
    async def run() -> Scripted:
        producer = Scripted()
        await asyncio.wait_for(use(producer), 20)
        return producer

    return asyncio.run(run())


def raising(error: BaseException) -> Step:
    async def raises() -> None:
        raise error

    return raises
