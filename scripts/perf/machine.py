"""What a measurement ran on and from which commit."""

import json
import os
import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
# What makes runs repeatable; a value that is set already stays.
DETERMINISTIC = {"BITNET_DETERMINISTIC": "1", "BITNET_SEED": "42", "RAYON_NUM_THREADS": "1"}


def environment():
    """The environment of every measured process."""
    return {**DETERMINISTIC, **os.environ}


def platform_name():
    """Such as linux-x86_64."""
    system = {"darwin": "macos"}.get(platform.system().lower(), platform.system().lower())
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine().lower())
    return f"{system}-{machine}"


def now():
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def output(command):
    """What a command prints, or None if it cannot."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def commit():
    """The commit, and whether files differ from it; both None outside of a repository."""
    name = output(["git", "rev-parse", "HEAD"])
    changes = output(["git", "status", "--porcelain"])
    return name, None if changes is None else bool(changes)


def processor(doctor):
    if doctor and doctor.get("processor"):
        return doctor["processor"]
    return platform.processor() or platform.machine()


def memory_bytes():
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def system_info(binary):
    """What stands in system-info.json."""
    text = output([str(binary), "doctor", "--no-bandwidth", "--json"]) if binary else None
    doctor = json.loads(text) if text else None
    chosen = environment()
    return {
        "schema": "bitnet-system-info/1",
        "created": now(),
        "platform": platform_name(),
        "system": platform.platform(),
        "processor": processor(doctor),
        "cores": os.cpu_count(),
        "memory_bytes": memory_bytes(),
        "python": platform.python_version(),
        "rustc": output(["rustc", "--version"]),
        "bitnet": output([str(binary), "--version"]) if binary else None,
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "environment": {name: chosen[name] for name in [*DETERMINISTIC, "BITNET_ISA"] if name in chosen},
        "doctor": doctor,
        "gpu": None,
        "gpu_reason": "the program has the CPU backend only",
    }
