"""Image collections on object stores: trees of images, read one by one, or shards used in place."""

import io
from functools import partial

import pyarrow as pa
from PIL import Image

from data.folders import FolderError, ObjectFolder, as_folder
from data.formats import open_image
from data.redact import redact, redact_address
from data.sources.base import (
    Opener,
    Source,
    SourceError,
    is_image,
    is_shards,
    listing_digest,
    refuse_test_alone,
    split_folders,
    tree_items,
)
from data.sources.inplace import shards_source


def remote_source(address: str) -> Source:
    """A tree of images at an s3:// or gs:// address, laid out as a folder's; or WebDataset shards there.

    Raises SourceError when the address cannot be read or holds neither.
    """
    try:
        folder = as_folder(address)
        assert isinstance(folder, ObjectFolder)
        files = {name: (info.size, info.mtime_ns) for name, info in folder.files()}
    except FolderError as error:
        raise SourceError(str(error)) from None
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{redact_address(address)}: {redact(str(error))}") from None
    if is_shards(list(files)):
        return shards_source(address)
    names = sorted(name for name in files if is_image(name.rpartition("/")[2]))
    if not names:
        raise SourceError(f"{folder.shown} holds no image and no .tar; give a tree of images or shards")
    paths = pa.array([name.encode() for name in names], pa.large_binary())
    splits = split_folders(paths)
    refuse_test_alone(paths, splits)
    return Source(
        folder.shown,
        listing_digest((name, *files[name]) for name in names),
        lambda: tree_items(paths, splits, partial(_opener, folder, paths)),
    )


def _opener(folder: ObjectFolder, paths: pa.Array, index: int) -> Opener:
    return partial(_open, folder, paths[index].as_py().decode())


def _open(folder: ObjectFolder, name: str) -> Image.Image:
    return open_image(io.BytesIO(folder.read(name)))
