"""Policies of LeRobot that can be aligned, one short file each; `CONTRIBUTING.md` tells what such a file holds."""
