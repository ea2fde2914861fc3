"""The queue: runs that wait for the trainer, kept in files, and running them one after another."""
