"""OpenAI-compatible servers elsewhere, which the operator names: a client, and what they answer."""
