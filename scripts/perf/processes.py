"""Runs a program that must end in time."""

import json
import os
import signal
import subprocess
import time

from perf.machine import ROOT, environment


class Failed(Exception):
    """A run that gave no result: `kind` is timeout, exit or output."""

    def __init__(self, kind, reason):
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


def run(command, timeout, extra_environment=None):
    """Standard output and error; the whole group of processes is killed at the timeout."""
    command = [str(part) for part in command]
    try:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**environment(), **(extra_environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
    except OSError as error:
        raise Failed("exit", f"{command[0]} does not start: {error}") from error
    begin = time.monotonic()
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        kill(process)
        process.communicate()
        raise Failed("timeout", f"killed after {timeout:g} s: {' '.join(command)}") from None
    except BaseException:
        kill(process)
        raise
    if process.returncode:
        last = err.strip().splitlines()[-1:] or ["no message"]
        raise Failed("exit", f"status {process.returncode} of {' '.join(command)}: {last[0]}")
    return out, err, time.monotonic() - begin


def kill(process):
    try:
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    except ProcessLookupError:
        pass  # it ended in this moment


def run_json(command, timeout, extra_environment=None):
    """The JSON object that a program prints, and how long it took."""
    out, _, seconds = run(command, timeout, extra_environment)
    try:
        value = json.loads(out)
    except ValueError as error:
        raise Failed("output", f"no JSON from {' '.join(map(str, command))}: {error}") from error
    if not isinstance(value, dict):
        raise Failed("output", f"no JSON object from {' '.join(map(str, command))}")
    return value, seconds
