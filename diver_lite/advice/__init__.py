"""Ask networks whether a set should be recovered, and how."""
