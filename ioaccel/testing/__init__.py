"""Real servers, and broken ones, for tests, the demo and the benchmark."""
