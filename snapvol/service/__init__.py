"""What the daemon and its workers do for people: volumes, snapshots, trash, mounts, jobs. Synchronous, thread-safe."""
