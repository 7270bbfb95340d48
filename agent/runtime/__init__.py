"""Containers from Linux itself: knows nothing of pods or clusters."""
