"""What vramx costs and gains, by scenarios: ``python -m benchmarks NAME [OPTIONS]``."""
