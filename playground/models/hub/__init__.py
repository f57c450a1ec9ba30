"""The Hugging Face Hub: search, listings, downloads."""
