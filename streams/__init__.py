"""The shell of Headwater: Faust, Kafka, RocksDB, the command line. Everything that does I/O."""
