"""GR00T N1.6 as a LeRobot policy, type `groot_n16`."""
