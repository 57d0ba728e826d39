"""Drivers of runs, told apart on one machine: a name for this process, and whether another's has ended."""

import socket

import psutil


def driver_name() -> str:
    """Of this process: machine, process id, and when it was started, since ids come again."""
    process = psutil.Process()
    return f"{socket.gethostname()}:{process.pid}:{process.create_time():.0f}"


def is_gone(driver: str) -> bool:
    """True when the process was on this machine and no longer is."""
    host, _, rest = driver.partition(":")
    pid, _, created = rest.partition(":")
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        return abs(psutil.Process(int(pid)).create_time() - float(created)) > 2
    except psutil.NoSuchProcess:
        return True
