"""What only the notebooks and the demo need: figures, explorers, the set-up check."""
