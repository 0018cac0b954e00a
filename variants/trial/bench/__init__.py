"""The benchmark: our wheel, other builds of the same source and another package, in paired rounds."""
