"""Policies behind a server: the protocol of vla-eval, and LeRobot's own asynchronous inference."""
