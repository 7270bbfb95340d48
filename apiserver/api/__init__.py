"""The contract, pure, no I/O: kinds, schema, defaults, validation, patches, selectors, errors, tables."""
