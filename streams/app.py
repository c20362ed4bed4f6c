"""The worker: one Faust app, its table, its agent and its engine, started and stopped in order."""

import asyncio
import contextlib
import gc
import logging
import sys
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from models.failover import FailoverEncoder
from models.runtime import OnnxEncoder
from operators import limits
from operators.interest import Encoder
from streams.agents import add_agent
from streams.catalog import Catalog, CatalogFollower
from streams.checkpoint import Checkpoint, Targets
from streams.clients.acls import require
from streams.connection import client_arguments, has_transactions, new_app, new_changelog_consumer
from streams.engine import Engine
from streams.intake import Intake
from streams.metrics import Metrics
from streams.policy import policy_of
from streams.processor import ProcessorTime
from streams.progress import RestoreProgress
from streams.reach import why_unreachable
from streams.records import hand_on_packed_records
from streams.resources import open_files_of_partition
from streams.restore import Restorer
from streams.settings import Settings
from streams.sources import TopicWatch, sources_of
from streams.states import States
from streams.store import StateStore
from streams.table import UserTable
from streams.topics import changelog_topic, partition_errors
from streams.transactions import FencedError
from streams.web import WebServer

__all__ = ["Worker", "WorkerError"]

log = logging.getLogger(__name__)

_START_TIMEOUT_S = 60.0
_LEAVE_TIMEOUT_S = 3.0
_GC_THRESHOLDS = (20_000, 20, 20)
_SWITCH_INTERVAL_S = 0.0005


class WorkerError(RuntimeError):
    """The worker cannot start, or had to stop; the message says why and what to do."""


class Worker:
    """Everything of one worker process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self._pseudonyms = settings.privacy.pseudonyms()
        self.stopping = asyncio.Event()
        """Set by whoever wants it to stop."""
        self._crash: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._write_thread = ThreadPoolExecutor(1, "headwater-store")
        self._tasks: list[asyncio.Task[Any]] = []
        self._is_joining = False

    async def start(self) -> None:
        """Check topics and model, then start in order: store, catalogue, engine, Faust.

        Raises:
            WorkerError: the broker cannot be reached or the topics do not fit the state.
        """
        settings, worker = self.settings, self.settings.worker
        hand_on_packed_records()
        partitions = await self._topic_partitions()
        self._exactly_once = self._delivers_exactly_once()
        encoder = OnnxEncoder(Path(worker.model_dir), providers=worker.provider, threads=worker.encoder_threads)
        if worker.explain:
            encoder.influences(np.zeros(1, np.int64))  # made from the model at the first call: not in the first batch
        log.info("model %s on %s", encoder.version, encoder.provider)
        self._policy = policy_of(worker, encoder.fusion)
        if worker.covisitation and self._policy.covisitation is None:
            log.warning(
                "worker.covisitation is on, and %s has no weights for it: lists are without it", worker.model_dir
            )
        table_partitions = partitions[changelog_topic(worker.app_id)]
        self.store = StateStore(
            Path(worker.data_dir) / worker.app_id,
            block_cache_mb=worker.block_cache_mb,
            write_buffer_mb=worker.write_buffer_mb,
            open_files_max=open_files_of_partition(table_partitions),
        )
        sources = await asyncio.to_thread(sources_of, settings)
        self.states = States(
            self.store,
            table_partitions,
            worker.cache_users_max,
            plain_ids=self._pseudonyms is None,
            sources=sources,
            keeps_covisitation=self._policy.covisitation is not None,
        )
        catalog = Catalog()
        catalog_topic = settings.topics.catalog
        consumer = AIOKafkaConsumer(**client_arguments(settings.broker))
        self.catalog_follower = CatalogFollower(catalog, consumer, catalog_topic, partitions[catalog_topic])
        await self.catalog_follower.start(self._on_task_end)
        self.app = new_app(settings, exactly_once=self._exactly_once)
        self.app.restorer = self._new_restorer()
        self.app.tables.add(UserTable(self.app, self.store, self.app.restorer, self._fail, table_partitions))
        self.engine = self._new_engine(FailoverEncoder(encoder), catalog, partitions)
        event_types = {topic: event_type for event_type, topic in enumerate(settings.topics.sources)}
        add_agent(self.app, self.engine, event_types)
        self.app.chunk_consumer.on_revoke_drain(self.engine)
        self.app.chunk_consumer.spare = self.engine.spare
        self.metrics.watched["lag_events"] = self._lag_events
        self.metrics.processor = ProcessorTime().seconds
        self.app.chunk_consumer.check_sources = self.states.check_sources
        self.web = WebServer(worker.web_host, worker.web_port, self.metrics, self.is_ready)
        try:
            await self.web.start()
        except OSError as error:
            raise WorkerError(
                f"health and metrics cannot be served on {worker.web_host}:{worker.web_port} ({error.strerror}):"
                " set worker.web_port to a free port, or to 0 for none"
            ) from None
        _tune_interpreter()
        self.engine.start()
        self._is_joining = True
        self._begin(TopicWatch(settings, sources).run(), "headwater-topics")
        await self._until_ended(asyncio.ensure_future(self.app.start()))
        self._begin(self._housekeeping(), "headwater-housekeeping")

    def _new_engine(self, encoder: Encoder, catalog: Catalog, partitions: Mapping[str, int]) -> Engine:
        topics, worker = self.settings.topics, self.settings.worker
        targets = self.app.targets = Targets(
            changelog_topic(worker.app_id),
            topics.recommendations,
            partitions[topics.recommendations],
            topics.dead_letter,
            partitions[topics.dead_letter],
            topics.receipts,
            partitions[topics.receipts],
            topics.erase,
        )
        checkpoint = Checkpoint(
            lambda: self.app.batch_producer,
            self.store,
            self.app.chunk_consumer.settle,
            targets,
            self._write_thread,
            self.app,
        )
        return Engine(
            self.states,
            encoder,
            catalog,
            checkpoint,
            self.metrics,
            self._policy,
            topics.sources,
            source=self.app.chunk_consumer,
            accepts=self._accepts,
            batch_events_max=worker.batch_events_max,
            yield_after_s=worker.yield_after_s,
            pseudonyms=self._pseudonyms,
        )

    def _new_restorer(self) -> Restorer:
        broker, read_committed = self.settings.broker, self._has_transactions
        return Restorer(
            self.store,
            changelog_topic(self.settings.worker.app_id),
            lambda: new_changelog_consumer(broker, read_committed=read_committed),
            RestoreProgress(self.metrics),
        )

    def is_ready(self) -> bool:
        """Whether events are being processed."""
        return not self.app.rebalancing and self.app.chunk_consumer.flow_active and bool(self.store.partitions)

    async def wait(self) -> None:
        """Return when ``stopping`` is set.

        Raises:
            Exception: whatever ended the engine, the table or Faust.
        """
        await self._until_ended(asyncio.ensure_future(self.stopping.wait()))

    async def _until_ended(self, awaited: "asyncio.Future[Any]") -> None:
        """Return when ``awaited`` is done; raise what ends the worker before that."""
        crash = asyncio.ensure_future(self.app.wait_for_crash())
        ends: list[asyncio.Future[Any]] = [awaited, crash, self.engine.failed, self._crash]
        done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        crash.cancel()
        for end in done:
            end.result()
        if self.app.crashed:
            raise self.app.crash_reason or WorkerError("Faust stopped without a reason")

    async def leave(self) -> None:
        """Leave the group if it was joined, and finish nothing: for a worker that is stopped while it starts."""
        if self._is_joining:
            if self._exactly_once:
                with contextlib.suppress(Exception):  # the next owner ends an open transaction in any case
                    await asyncio.wait_for(self.app.batch_producer.stop(), _LEAVE_TIMEOUT_S)
            with contextlib.suppress(Exception):  # the session runs out in any case
                await asyncio.wait_for(self.app.chunk_consumer.leave_group(), _LEAVE_TIMEOUT_S)

    async def stop(self) -> None:
        """Finish what is in work, commit, leave the group, close everything.

        Raises:
            FencedError: the group has gone on without this worker: there is nothing that it could finish.
        """
        for task in self._tasks:
            task.cancel()
        leaving, over = asyncio.ensure_future(self.app.stop()), asyncio.ensure_future(self.app.lease.over())
        await asyncio.wait([leaving, over], return_when=asyncio.FIRST_COMPLETED)
        over.cancel()
        if not leaving.done():  # Faust would join the group again to commit to it
            raise FencedError
        leaving.result()
        await self.engine.stop()
        self.states.close()
        await self.catalog_follower.stop()
        await self.web.stop()
        self._write_thread.shutdown(wait=True)
        self.app.restorer.close()
        await asyncio.to_thread(self.store.close_all)

    def _lag_events(self) -> float:
        """Events that lie in the topics, as far as is known, and are not settled yet."""
        return self.engine.pending_events + self.app.chunk_consumer.unfetched_events()

    def _accepts(self, intake: Intake) -> bool:
        return self.app.chunk_consumer.accepts(intake.generation)

    def _begin(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(coroutine, name=name)
        task.add_done_callback(self._on_task_end)
        self._tasks.append(task)

    def _on_task_end(self, task: "asyncio.Task[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        if not self._crash.done():
            self._crash.set_exception(error)

    async def _topic_partitions(self) -> dict[str, int]:
        admin = AIOKafkaAdminClient(**client_arguments(self.settings.broker))
        client_log = logging.getLogger("aiokafka")
        level = client_log.level
        try:
            client_log.setLevel(logging.CRITICAL)  # what the client would say is in the error below
            await asyncio.wait_for(admin.start(), _START_TIMEOUT_S)
            # All of them: to ask for one that is missing makes brokers create it, with any number of partitions.
            described = await admin.describe_topics()
            self._has_transactions = await has_transactions(admin)
        except (KafkaError, OSError, TimeoutError):
            raise WorkerError(why_unreachable(self.settings.broker)) from None
        finally:
            await admin.close()
            client_log.setLevel(level)
        await asyncio.to_thread(require, self.settings, "worker")
        partitions = {topic["topic"]: len(topic["partitions"]) for topic in described if not topic["error_code"]}
        errors = partition_errors(self.settings, partitions)
        if errors:
            raise WorkerError("; ".join(errors))
        return partitions

    def _delivers_exactly_once(self) -> bool:
        wanted = self.settings.worker.delivery == "exactly_once"
        if wanted and not self._has_transactions:
            raise WorkerError(
                f"the broker at {self.settings.broker.address} has no transactions, which worker.delivery ="
                ' "exactly_once" takes: use Apache Kafka, or worker.delivery = "at_least_once"'
            )
        return wanted

    async def _housekeeping(self) -> None:
        while True:
            await asyncio.sleep(limits.flush_interval_s)
            # Beside the settlements, which must not wait for it.
            await asyncio.to_thread(self.store.flush, limits.flush_bytes_min)
            # What a restore deleted, which another worker erased.
            await asyncio.to_thread(self.store.scrub)
            self.metrics.gauges["cached_users"] = len(self.states)
            self.metrics.gauges["state_bytes"] = self.store.size_bytes()
            self.metrics.gauges["misplaced_users"] = self.states.misplaced_users
            self.metrics.gauges["catalog_malformed"] = self.catalog_follower.catalog.malformed_count
            self.metrics.gauges["catalog_over_limit"] = self.catalog_follower.catalog.over_count


def _tune_interpreter() -> None:
    """Fewer full collections, and quicker turns.

    What is loaded by now lives as long as the process: frozen, it is not walked by every full collection. The core
    leaves the interpreter to the other threads during every encoder call, and must not wait long to come back.
    """
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
