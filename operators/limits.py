"""Every bound of the system, in one place; the unit is the last word of each name."""

from typing import Final

__all__ = [
    "abort_wait_s",
    "align_wait_ms",
    "batch_events_max",
    "batch_lists_s_max",
    "boost_max",
    "cache_users_max",
    "catalog_items_max",
    "chunk_records_max",
    "computed_batches_max",
    "context_depth_max",
    "covisitation_items_max",
    "covisitation_live_successors_max",
    "covisitation_successors_max",
    "dead_letter_bytes_max",
    "dead_letter_record_bytes_max",
    "device_users_max",
    "drain_max_s",
    "encoder_backoff_max_s",
    "encoder_call_events_max",
    "event_bytes_max",
    "explained_events_max",
    "fetch_pace_ms",
    "fetch_part_wait_ms",
    "flush_bytes_min",
    "flush_interval_s",
    "future_skew_ms",
    "history_events_max",
    "id_bytes_max",
    "import_line_bytes_max",
    "inflight_records_max",
    "list_causes_bytes_max",
    "list_items_max",
    "load_threads_max",
    "load_users_max",
    "open_files_of_partition_max",
    "open_files_of_partition_min",
    "open_files_others_max",
    "partition_queue_events_max",
    "popularity_checkpoint_events",
    "popularity_half_life_ms",
    "popularity_items_max",
    "popularity_ranking_events_max",
    "popularity_snapshot_items_max",
    "produce_batch_bytes_max",
    "reason_bytes_max",
    "reshaped_candidates_max",
    "restore_fetch_bytes_max",
    "restore_partition_fetch_bytes_max",
    "restore_threads_max",
    "score_batch_lists",
    "settling_batches_max",
    "sort_chunk_events_max",
    "sort_files_max",
    "stop_max_s",
    "timestamp_ms_max",
    "timestamp_ms_min",
    "topics_look_s",
    "transaction_timeout_ms",
    "value_max",
]

# -- one event, checked at the door
event_bytes_max: Final = 64 * 1024
id_bytes_max: Final = 128
"""UTF-8 bytes of a user, item, session or event id."""
context_depth_max: Final = 32
"""Nesting of an event's free-form ``context`` (and of any unknown field)."""
value_max: Final = 1e12
timestamp_ms_min: Final = 0
timestamp_ms_max: Final = 4_102_444_800_000
"""2100-01-01, so that a time in microseconds is not taken for milliseconds."""
future_skew_ms: Final = 5 * 60 * 1000
"""How far ahead of the worker's clock an event time may be."""

# -- one user's state
history_events_max: Final = 50

# -- one list
list_causes_bytes_max: Final = 900_000
"""Of the events that a list names: with the rest it fits the 1 MB that topics take by default."""
list_items_max: Final = 100
explained_events_max: Final = 16
"""Newest events of a history among which the reason for an item is looked for."""
boost_max: Final = 100.0
"""Of an item's score, by a rule of the catalogue."""
reshaped_candidates_max: Final = 100
"""Among which variety and category caps choose a list."""

# -- one batch through the engine
chunk_records_max: Final = 500
"""Records of one partition that a batch takes at a time: the grain of the merge over topics."""
batch_events_max: Final = 7_000
"""Events that share one encoder batch and one settlement: of a backlog, the more the fewer states and lists."""
batch_lists_s_max: Final = 2.0
"""Time that a batch's lists may take; where they took longer the next batches are smaller, down to one chunk."""
computed_batches_max: Final = 3
"""One whose lists are made, one whose states are updated meanwhile, and one that is ready for it."""
settling_batches_max: Final = 4
"""Sent to the broker and not yet acknowledged."""
partition_queue_events_max: Final = 2_000
"""Records of one source partition that wait for a batch; beyond it the partition is not fetched."""
fetch_pace_ms: Final = 50
"""How long a fetch waits for the batch whose states are updated, where the broker is not known to have more."""
fetch_part_wait_ms: Final = 10
"""How long the broker waits for records where a fetch leaves out a partition whose last ones wait for room."""
align_wait_ms: Final = 200
"""How long a partition's events wait for another topic of theirs that is known to have more."""
encoder_call_events_max: Final = 2_048
"""Events of one pass through the encoder, and one user's more: about 4 KB of memory each."""
device_users_max: Final = 65_536
"""Users whose states a GPU keeps, 2 KB each."""
score_batch_lists: Final = 256
"""Rows of one scoring call: bounds the score matrix to rows x catalogue x 4 bytes."""

# -- one worker
cache_users_max: Final = 50_000
"""Decoded user states kept in memory, about 5 KB each."""
catalog_items_max: Final = 1_000_000
"""Items of which a category is remembered, and items that are withdrawn: about 150 bytes each."""
popularity_items_max: Final = 20_000
popularity_half_life_ms: Final = 7 * 24 * 3600 * 1000
"""Event time in which an item's popularity halves."""
popularity_ranking_events_max: Final = 2_000
"""Events of a partition between two rankings of its popular items."""
popularity_snapshot_items_max: Final = 3_000
"""Items of a snapshot: at the longest ids it still fits one Kafka record of a producer batch."""
popularity_checkpoint_events: Final = 20_000
"""Events of a partition between two writes of its popularity to the changelog."""
covisitation_items_max: Final = 20_000
"""Items of a partition whose successors a worker notes: the tenth seen least goes when there are more."""
covisitation_live_successors_max: Final = 64
"""Successors that a worker notes of an item, 12 bytes each."""
covisitation_successors_max: Final = 512
"""Successors noted of an item, 12 bytes each; the weaker half goes when there are as many."""

# -- one produce batch
produce_batch_bytes_max: Final = 512 * 1024
"""Below the 1 MB that brokers take by default (``message.max.bytes``)."""
flush_interval_s: Final = 30.0
"""Between two flushes of the state store: bounds the changelog tail that a crash makes it read again."""
flush_bytes_min: Final = 1024 * 1024
"""Of a partition, which is not flushed for less: a small file each half minute would be many, and the tail is short."""
load_users_max: Final = 64
"""States that are read from the store in one call, of one partition; more are read by several threads."""
load_threads_max: Final = 4
"""With four threads a disk gave more than twice as many states a second as with one."""
restore_fetch_bytes_max: Final = 16 * 1024 * 1024
"""Of one fetch of the changelog, all partitions of a broker together; twice that is in memory."""
restore_partition_fetch_bytes_max: Final = 2 * 1024 * 1024
"""Of one partition in such a fetch, so that it brings several, which are written side by side."""
restore_threads_max: Final = 4
"""Partitions that a restore writes at a time."""
encoder_backoff_max_s: Final = 60.0
"""Longest wait before an encoder that fails is tried again."""
open_files_of_partition_max: Final = 256
"""Files that the database of one partition keeps open; fewer where the system allows fewer."""
open_files_of_partition_min: Final = 32
"""With fewer, reads would open and close files all the time."""
open_files_others_max: Final = 128
"""Sockets, libraries, the model, and what a flush or a compaction opens."""
drain_max_s: Final = 30.0
"""How long a stopping or rebalancing worker waits for the batch in work."""

topics_look_s: Final = 5.0
"""Between two looks of a worker at the topics that it works on: one that is deleted is missed that soon."""
stop_max_s: Final = 25.0
"""After which a worker that was asked to stop ends as it is: the next owner reads what was in work again."""

transaction_timeout_ms: Final = 60_000
"""After which the broker aborts a transaction that nobody ends: more than a broker's pause should take."""
abort_wait_s: Final = 5.0
"""How long a worker that has to end waits for its transaction's abort."""

# -- one dead letter
dead_letter_bytes_max: Final = 1_900_000
"""Of an original value; the rest of a larger one is cut, and the letter says so."""
dead_letter_record_bytes_max: Final = 2_090_000
"""Of a letter's value, key and foreign headers together: with our own headers it fits the 2 MiB of the topic."""
reason_bytes_max: Final = 500

# -- one command-line client
inflight_records_max: Final = 20_000
"""Records sent and not yet acknowledged."""
import_line_bytes_max: Final = 4 * 1024 * 1024
"""Longest line of an imported file; OTTO has a whole session in one."""
sort_chunk_events_max: Final = 200_000
"""Events sorted in memory (about 100 MB) before they are written to a temporary file."""
sort_files_max: Final = 64
"""Temporary files merged at a time."""
