"""Measurements, each beside its peer: `make bench`. Prints medians of interleaved runs as one Markdown table, with the machine named; nothing here asserts."""
