"""Flags of XLA for tests, and for the programs that tests start."""

COMPILE_FAST = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1"
)
"""Tests compile much and compute little: without LLVM's optimisations, and with XLA's older way to write
fused loops, they take a third of the time. The flags are of the jaxlib in constraints.txt: XLA ends a process
that gets one it does not know."""

EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"
