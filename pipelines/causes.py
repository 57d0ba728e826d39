"""From an exception that crossed processes to the one line that a person needs."""

from ray.exceptions import OutOfMemoryError, RayTaskError, WorkerCrashedError

from data.redact import redact


def cause(error: BaseException) -> str:
    """The innermost exception's type and first line, without tracebacks or secrets."""
    error = innermost(error)
    if isinstance(error, OutOfMemoryError):
        return "out of memory: Ray ended the process; use a smaller batch or fewer workers"
    if isinstance(error, WorkerCrashedError):
        return "its process died (killed, out of memory, or no step for compute.stall_timeout seconds)"
    if type(error).__name__ == "WorkerHealthCheckFailedError":
        return "a training worker died, or made no step for compute.stall_timeout seconds"
    if type(error).__name__ == "ControllerError":
        return "the training workers could not all be started: a node may be gone"
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {redact(lines[0])}" if lines else type(error).__name__


def innermost(error: BaseException) -> BaseException:
    """What was raised in the process where it began."""
    while True:
        inner: BaseException | None = None
        if isinstance(error, RayTaskError):
            inner = error.cause
        elif failures := getattr(error, "worker_failures", None):  # Ray Train's, by rank
            inner = next(iter(failures.values()))
        elif isinstance(failure := getattr(error, "controller_failure", None), RayTaskError):
            inner = failure  # as the workers were starting
        if inner is None or inner is error:
            return error
        error = inner
