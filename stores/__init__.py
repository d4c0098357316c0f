"""Where the log is kept: the EventStore interface and its implementations."""
