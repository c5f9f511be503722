"""Policies as servers: for evaluation harnesses, and for LeRobot's asynchronous inference."""
