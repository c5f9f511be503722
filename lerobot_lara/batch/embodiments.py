"""Names of embodiments: the robots, hands and simulators that data comes from."""

# A policy or a dataset that names no embodiment has this one.
DEFAULT_EMBODIMENT = "default"
