"""What every room may use: errors, configuration, randomness, results, devices and processes."""
