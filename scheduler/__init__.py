"""snapshot, decide (pure), bind. Sees apiserver.api and apiserver.client only."""
