"""What each process of a run's cluster does first."""

import os

import ray

DRIVER_FOLDER = "ATJEM_DRIVER_FOLDER"  # of the environment


def enter_cluster() -> None:
    """Relative paths in settings start where the command was given, on machines that have the folder.

    What Ray asks its own cluster goes to this one, also where a machine has several: it would give up, and
    the CPUs of a training whose controller died would stay taken.
    """
    folder = os.environ.get(DRIVER_FOLDER, "")
    if os.path.isdir(folder):
        os.chdir(folder)
    os.environ["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
