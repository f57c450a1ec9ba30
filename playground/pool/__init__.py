"""The parent's side of workers: their life, the leases on them, the memory they take."""
