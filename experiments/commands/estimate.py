"""`clipbert estimate`: its options and its help."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from clipbert_jax.errors import UserError
from experiments.commands.experiment_choice import ExperimentChoice
from experiments.input_checks import check_range

if TYPE_CHECKING:
    from clipbert_jax.costs.devices import Device
    from experiments.experiment import Experiment

_TOPOLOGIES = {"v5e": "v5e:2x4", "v5p": "v5p:2x2x2", "v6e": "v6e:2x4"}
"""Hosts of 8 chips each, of which a slice may use fewer."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """Estimate what a training takes: operations, memory, the batch that fits, time, decoding processes.

    Parameters and operations are counted, memory is estimated, and the rate of a device is an assumption;
    only a CPU is measured. --compile asks the device's compiler.
    """

    experiment: Annotated[ExperimentChoice, arg(name="")]
    """Experiment to train."""
    device: Literal["h100", "h200", "a100", "v5e", "v5p", "v6e", "cpu"]
    """GPU, TPU chip, or the CPU of this machine, which is measured."""
    num_devices: int | None = None
    """Number of devices; default: that of --topology, or 1."""
    data_dir: Path | None = None
    """Short form of --data.data-dir. Existing data tell how many examples, texts and words there are."""
    num_examples: int | None = None
    """Number of examples per epoch; default: that of the data, if they exist."""
    decode_ms: float | None = None
    """Core-milliseconds for decoding a video; default: 55 for 16 frames, in proportion."""
    check: bool = True
    """Compile the step for this CPU and compare the estimate with XLA's counts; nothing is run.
    The full-size model takes half a minute."""
    compile: bool = False
    """Ask the compiler of the device, which takes minutes and needs no device."""
    topology: str | None = None
    """Connection of the devices, such as v5e:16x16 or h100:8."""
    python: str | None = None
    """Python of an environment with jax[tpu] or jax[cuda13], for --compile; default: this Python."""
    timeout_minutes: float = 60.0
    """Time limit of --compile."""
    json: bool = False
    """Print JSON instead of text."""

    def run(self) -> None:
        """Estimate, ask compilers, print."""
        from clipbert_jax.costs.devices import platform_of
        from experiments.estimate.compile_elsewhere import CompileRequest, check_plugin
        from experiments.estimate.estimate import check_on_cpu, compare_with_compiler, estimate
        from experiments.estimate.lines import check_lines, comparison_lines, estimate_lines
        from experiments.estimate.plan import make_plan

        self._check_options()
        num_devices, target = self._devices()
        if self.compile and self.python is None:
            check_plugin(target)
        plan = make_plan(self._experiment(), num_devices=num_devices, num_examples=self.num_examples)
        setting, device, platform = plan.setting, self._device(), platform_of(self.device)
        numbers = estimate(plan, device, platform, num_devices, self.decode_ms)
        self._show(estimate_lines(numbers, self.device))
        if self.check:
            self._say("compiling the step for this machine's CPU; --no-check leaves it out")
            numbers["check"] = check_on_cpu(setting, numbers["videos_at_once"])
            self._show(check_lines(numbers["check"]))
        if self.compile:
            self._say(f"compiling for {target}, which may take many minutes")
            numbers["compiled"] = compare_with_compiler(
                CompileRequest(setting=setting, target=target, num_devices=num_devices),
                device,
                python=self.python or sys.executable,
                timeout_seconds=60 * self.timeout_minutes,
            )
            self._show(comparison_lines(numbers["compiled"]))
        if self.json:
            print(json.dumps(numbers, indent=2))

    def _check_options(self) -> None:
        """Refuse numbers that would say nothing.

        Raises:
          UserError: names the option and its range.
        """
        for option, value, least, most in (
            ("--num-examples", self.num_examples, 1, math.inf),
            ("--decode-ms", self.decode_ms, 0.01, 1e6),
            ("--timeout-minutes", self.timeout_minutes, 0.1, 1e4),
        ):
            if value is not None:
                check_range(option, value, least, most)

    def _experiment(self) -> Experiment:
        if self.data_dir is None:
            return self.experiment
        data = dataclasses.replace(self.experiment.data, data_dir=str(self.data_dir))
        return dataclasses.replace(self.experiment, data=data)

    def _device(self) -> Device:
        from clipbert_jax.costs.devices import DEVICES, measure_device

        if self.device != "cpu":
            return DEVICES[self.device]
        self._say("measuring this machine's CPU")
        return measure_device()

    def _devices(self) -> tuple[int, str]:
        """Return how many devices there are, and what to compile for.

        Raises:
          UserError: number, kind and topology do not go together.
        """
        from clipbert_jax.costs.compiler import num_devices_of

        wanted = self.num_devices
        if wanted is not None and wanted < 1:
            raise UserError(f"--num-devices must be at least 1, not {wanted}")
        if self.device == "cpu":
            if wanted not in (None, 1) or self.topology:
                raise UserError("--device cpu is one device: leave --num-devices and --topology out")
            return 1, "cpu"
        target = self.topology or _TOPOLOGIES.get(self.device) or f"{self.device}:{wanted or 1}"
        if target.partition(":")[0] != self.device:
            raise UserError(f"--topology {target} is not one of --device {self.device}")
        num_there = num_devices_of(target)
        if self.topology is None:
            if self.compile and (wanted or 1) > num_there:
                raise UserError(
                    f"--topology must say how {wanted} {self.device} are connected, as {target} does"
                )
            return wanted or 1, target
        if (wanted or 1) > num_there:
            raise UserError(f"--topology {target} has {num_there} devices, not {wanted}")
        return wanted or num_there, target

    def _show(self, lines: Iterable[str]) -> None:
        if not self.json:
            for line in lines:
                print(line, flush=True)

    def _say(self, line: str) -> None:
        print(f"clipbert: {line}", file=sys.stderr, flush=True)
