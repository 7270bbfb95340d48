"""One strategy per kind that behaves in its own way; `table.of(resource)` finds it. Strategies change documents, the registry stores them."""
