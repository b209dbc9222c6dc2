"""Settings of the environment for tests, and for the programs that tests start."""

from jaxlib.version import __version_info__

_KNOWN_BEFORE_0_11 = "--xla_cpu_use_fusion_emitters=false " if __version_info__ < (0, 11) else ""
"""XLA ends a process that gets a flag it does not know, and newer ones have dropped this one."""

COMPILE_FAST = (
    f"--xla_backend_optimization_level=0 {_KNOWN_BEFORE_0_11}--xla_cpu_parallel_codegen_split_count=1"
)
"""Tests compile much and compute little: without LLVM's optimisations, and with XLA's older way to write
fused loops where there is one, they take a third of the time."""

EIGHT_DEVICES = "--xla_force_host_platform_device_count=8"

SHARED_FOLDER = "CLIPBERT_TESTS_SHARED"
"""Environment variable: a folder that all processes of a run of pytest share."""
