"""What each process of a run's cluster does first."""

import os

DRIVER_FOLDER = "ATJEM_DRIVER_FOLDER"  # of the environment


def enter_driver_folder() -> None:
    """Relative paths in settings start where the command was given, on machines that have the folder."""
    folder = os.environ.get(DRIVER_FOLDER, "")
    if os.path.isdir(folder):
        os.chdir(folder)
