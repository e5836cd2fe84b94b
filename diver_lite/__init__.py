"""diver_lite: DIVER in the open, as a runnable book with a companion package."""
