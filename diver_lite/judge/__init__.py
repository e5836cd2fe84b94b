"""Train judges on sets, and compare what they learned.

`table` is where it begins: what is to be trained. `workers` trains it side by side,
`record` keeps what is done. `training` trains one network of `networks`, or of the
user's own (`own`, `reach`), by the rules of `protocols`. `compare` says what a table of
trainings shows.
"""
