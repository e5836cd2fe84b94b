"""Train judges on sets, and compare what they learned."""
