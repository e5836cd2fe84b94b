"""What only chapters need: figures, explorers, measures, the set-up check."""
