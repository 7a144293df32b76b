"""Worker processes: launch, heartbeat, supervision."""
