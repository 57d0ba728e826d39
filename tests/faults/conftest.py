from tests.support.shared_workdir import at, s3_folder, server, through

__all__ = ["at", "s3_folder", "server", "through"]
