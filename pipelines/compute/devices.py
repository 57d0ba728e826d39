"""What this machine has, and whether a recipe's training fits it."""

import os
from pathlib import Path

from pipelines.compute.memory import stage_bytes
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
    """Training's estimated memory, and its precision, on this machine's devices."""
    return [*_check_memory(settings), *_check_precision(settings)]


def _check_memory(settings: Settings) -> list[Problem]:
    compute = settings.compute
    if compute.gpus_per_worker:
        there, what = _gpu_bytes() * min(1, compute.gpus_per_worker), "a worker's GPU"
    else:
        there, what = _ram_bytes() / compute.num_workers, "each worker's share of this machine's memory"
    problems = []
    for name, needed in stage_bytes(settings).items():
        if 0 < there < needed:
            size, workers = getattr(settings, name).batch_size, compute.num_workers
            given = (
                f"{size} over {workers} worker{'s' * (workers > 1)} takes about {needed / 1e9:.0f} GB each"
            )
            allowed = f"{what} is {there / 1e9:.0f} GB: use a smaller batch or raise {name}.accumulate"
            if name == "stage2" and not compute.activation_checkpointing:
                allowed += ", or set compute.activation_checkpointing=true"
            problems.append(Problem(f"{name}.batch_size", given, allowed))
    return problems


def _check_precision(settings: Settings) -> list[Problem]:
    if settings.compute.precision != "bf16" or settings.compute.gpus_per_worker or _has_bf16():
        return []
    allowed = "this CPU only imitates it, twenty times slower than fp32; use fp32"
    return [Problem("compute.precision", "'bf16' without a GPU", allowed)]


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
    """Of the smallest GPU here; 0 where there is none."""
    import torch

    indices = range(torch.cuda.device_count())
    return min((torch.cuda.get_device_properties(index).total_memory for index in indices), default=0)


def _ram_bytes() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
