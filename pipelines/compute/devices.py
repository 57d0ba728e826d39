"""What this machine has, and whether a recipe fits it."""

import os
import subprocess
from pathlib import Path

from pipelines.compute.memory import needs
from pipelines.problems import Problem
from pipelines.settings import Settings

_NATIVE_BF16 = {"avx512_bf16", "amx_bf16", "bf16"}  # of x86 and Arm, as Linux names them


def check_resources(settings: Settings, available: dict[str, float], where: str) -> list[Problem]:
    """The training workers fit, with the arithmetic shown."""
    compute = settings.compute
    problems = []
    kinds = (
        ("CPU", "cpus_per_worker", compute.cpus_per_worker),
        ("GPU", "gpus_per_worker", compute.gpus_per_worker),
    )
    for kind, name, each in kinds:
        asked, there = compute.num_workers * each, available.get(kind, 0)
        if asked > there:
            sum_ = f"{compute.num_workers} workers x {each:g} {kind}s = {asked:g} {kind}s asked for"
            allowed = f"{where} has {there:g}; lower it or compute.{name}"
            problems.append(Problem("compute.num_workers", sum_, allowed))
    return problems


def visible_devices() -> dict[str, float]:
    """CPUs of this machine, and its GPUs by their device files: torch, which counts better, takes seconds."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if chosen is not None:
        gpus = min(gpus, len([name for name in chosen.split(",") if name.strip() not in ("", "-1")]))
    return {"CPU": os.cpu_count() or 1, "GPU": gpus}


def local_resources(settings: Settings) -> dict[str, float]:
    """CPUs of this machine, and its GPUs when the recipe asks for any (counting them takes torch)."""
    if settings.compute.gpus_per_worker == 0:
        return {"CPU": os.cpu_count() or 1}
    import torch

    return {"CPU": os.cpu_count() or 1, "GPU": torch.cuda.device_count()}


def check_fit(settings: Settings) -> list[Problem]:
    """The estimated memory of training and evaluation, and their precision, on this machine's devices."""
    gpu = settings.compute.gpus_per_worker > 0
    what = "a worker's GPU" if gpu else "each worker's share of this machine's memory"
    return [*check_memory(settings, worker_memory(settings), what), *_check_precision(settings)]


def check_memory(settings: Settings, there: float, what: str) -> list[Problem]:
    """there: bytes of `what`, which a worker of each stage must fit; 0 when unknown."""
    return [
        Problem(
            need.setting,
            f"{need.given} takes about {need.bytes / 1e9:.0f} GB each",
            f"{what} is {there / 1e9:.0f} GB: {need.ways_out}",
        )
        for need in needs(settings)
        if 0 < there < need.bytes
    ]


def worker_memory(settings: Settings, sharing: int | None = None) -> float:
    """Bytes of this machine that one worker may take: of its GPU, or its share of the memory; 0: unknown.

    sharing: how many workers run here; None: all of them.
    """
    compute = settings.compute
    if compute.gpus_per_worker:
        return _gpu_bytes() * min(1, compute.gpus_per_worker)
    return _ram_bytes() / (sharing or compute.num_workers)


def _check_precision(settings: Settings) -> list[Problem]:
    if settings.compute.gpus_per_worker or _has_bf16():
        return []
    chosen = {
        "compute.precision": settings.compute.precision,
        "evaluate.precision": settings.evaluate.precision,
    }
    allowed = "this CPU only imitates it, twenty times slower than fp32; use fp32"
    return [Problem(name, "'bf16' without a GPU", allowed) for name, own in chosen.items() if own == "bf16"]


def _has_bf16() -> bool:
    """True too where the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return True
    flags = {
        flag for line in lines if line.lower().startswith(("flags", "features")) for flag in line.split()
    }
    return not flags or bool(flags & _NATIVE_BF16)


def _gpu_bytes() -> float:
    """Of the smallest GPU here, without torch: its driver says; 0 where there is none or no word of it."""
    amd = [int(file.read_text()) for file in Path("/sys/class/drm").glob("card*/device/mem_info_vram_total")]
    asked = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True).stdout.split()
    except (OSError, subprocess.SubprocessError):
        said = []
    nvidia = [int(mebibytes) << 20 for mebibytes in said if mebibytes.isdigit()]
    return min(nvidia or amd, default=0)


def _ram_bytes() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
