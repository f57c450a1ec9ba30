"""Many questions to many variants: drift, accuracy, sight, speed, and the ship card."""
