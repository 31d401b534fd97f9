"""How relevance travels through a running network: operations, rows, steps."""
