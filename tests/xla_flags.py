"""Flags of XLA for tests, and for the programs that tests start."""

COMPILE_FAST = "--xla_backend_optimization_level=0"
"""Tests compile much and compute little: without LLVM's optimisations they take two thirds of the time."""

EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"
