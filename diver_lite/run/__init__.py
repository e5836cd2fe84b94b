"""Run a recovery fast, and so that nothing is lost: wrappers around the core."""
