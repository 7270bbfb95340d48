"""What every verb means for every kind: create, get, update, patch, delete, subresources."""
