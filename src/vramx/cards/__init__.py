"""Cards: opening them, what NVML says about them, and the simulated card."""
