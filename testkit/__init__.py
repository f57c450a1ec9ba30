"""What tests, bench and docs share: random GGUF pairs, a server that speaks the Hub's protocol, the app's process."""
