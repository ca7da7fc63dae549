"""Cards: opening them, what NVML says of them, and one that is simulated."""
