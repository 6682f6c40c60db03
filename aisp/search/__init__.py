"""The search: one loop a request, what it knows, what it found."""
