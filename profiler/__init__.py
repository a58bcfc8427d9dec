"""Clocks, energy meters, the hardware table, environments and run records; imports nothing of ours."""
