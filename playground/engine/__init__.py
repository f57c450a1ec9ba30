"""What runs in a worker, the only process that imports llama_cpp. The parent may import `protocol` alone."""
