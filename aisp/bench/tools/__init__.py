"""Which tool does a model choose? Requests with known answers, and a rule that doesn't know them."""
