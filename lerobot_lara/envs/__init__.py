"""Simulated environments registered with LeRobot. Importing the package starts no simulator."""
