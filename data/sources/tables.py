"""Tables of images: parquet files, and data sets that Hugging Face `datasets` saved with `save_to_disk`.

An image is the bytes of a struct {bytes, path}, as Hugging Face writes it, or a binary column. A table file's
split is in its name (train-00000-of-00001.parquet) or its folder's; the rules are those of image folders,
except that one split alone is none: what is held out is then drawn.

Items are read by row group: shuffled reading is fast where groups are small (Hugging Face's are) or a file's
fit into the memory that is kept for them; a single group of gigabytes is read anew for most images.
"""

import json
import re
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data.sources.base import (
    Listing,
    Opener,
    Source,
    SourceError,
    is_image,
    listed,
    listing_digest,
    printable,
    refuse_long,
    split_folders,
)
from data.sources.rows import (
    group_sizes,
    open_row,
    path_inside,
    paths_without_bytes,
    read_column,
    read_schema,
    reading,
)

_IMAGE_NAMES = ("image", "img", "jpg", "png", "bytes")
_LABEL_NAMES = ("label", "labels", "class", "fine_label", "target")
_SPLIT = re.compile(r"(train(ing)?|test(ing)?|val(id(ation)?)?)([-_.].*)?", re.IGNORECASE)
_NOT_IMAGES = ("manifest.parquet", "metadata.parquet")  # they describe images that lie beside them
_UNLABELLED = -1  # Hugging Face's word for it


def table_source(path: str | Path) -> Source:
    """A .parquet file, a folder of them (also in its data/, train/, test/), or a folder from `save_to_disk`.

    Raises SourceError when there is none; and, when items are asked for, for what is damaged, lacks an image
    column, is labelled in part, or points to image files that are not there.
    """
    root = Path(path).expanduser().absolute()
    files = table_files(root)
    if not files:
        raise SourceError(f"{path} holds no table; give .parquet files or what datasets' save_to_disk wrote")
    pictures = [file for file in sorted(root.rglob("*")) if is_image(file.name)]  # which a table may point to
    identity = listing_digest(listed(_relative(file, root), file) for file in (*files, *pictures))
    return Source(str(path), identity, partial(_items, root, files))


def table_files(root: Path) -> list[Path]:
    """The tables of a folder in order, or the .parquet file itself; empty when there is none.

    Raises SourceError for a saved data set of which files are missing.
    """
    if root.is_file():
        return [root] if root.suffix.lower() == ".parquet" else []
    if (root / "dataset_dict.json").is_file():
        splits = _read_json(root / "dataset_dict.json", "splits")
        return [file for split in splits for file in _saved_files(root / Path(str(split)).name)]
    if (root / "state.json").is_file():
        return _saved_files(root)
    below = sorted(entry for entry in root.glob("*/") if entry.name == "data" or _SPLIT.fullmatch(entry.name))
    files = [file for folder in (root, *below) for file in sorted(folder.glob("*.parquet"))]
    return [file for file in files if file.name not in _NOT_IMAGES]


def _saved_files(folder: Path) -> list[Path]:
    entries = _read_json(folder / "state.json", "_data_files")
    names = [entry.get("filename") for entry in entries if isinstance(entry, dict)]
    files = [folder / Path(str(name)).name for name in names]
    if missing := [file for file in files if not file.is_file()]:
        raise SourceError(
            f"{missing[0]} does not exist though {folder / 'state.json'} names it; save it again"
        )
    return files


def _read_json(file: Path, key: str) -> list[object]:
    try:
        found = json.loads(file.read_bytes())[key]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise SourceError(f"{file} is missing or damaged; save the data set again") from error
    if not isinstance(found, list):
        raise SourceError(f"{file}: {key} is no list; save the data set again")
    return found


def _items(root: Path, files: list[Path]) -> Listing:
    splits = _splits(root, files)
    names, labels, own_splits, groups, starts = [], [], [], [], [0]
    for file, split in zip(files, splits, strict=True):
        schema = read_schema(file)
        image = _image_column(file, schema)
        _check_paths(root, file, image)
        sizes = group_sizes(file)
        groups += [(str(file), group, image) for group in range(len(sizes))]
        starts += [starts[-1] + size for size in np.cumsum(sizes, dtype=int)]
        labels.append(_labels(file, schema, sum(sizes)))
        names.append((printable(_relative(file, root)), sum(sizes)))
        own_splits.append([split] * sum(sizes))
    if not starts[-1]:
        raise SourceError(f"{root} holds tables without rows; give images")
    return Listing(
        (f"{name}/{row}" for name, num in names for row in range(num)),
        _class_names(files, labels),
        chain.from_iterable(own_splits),
        partial(_opener, str(root), groups, np.array(starts)),
    )


def _opener(root: str, groups: list[tuple[str, int, str]], starts: np.ndarray, index: int) -> Opener:
    number = int(np.searchsorted(starts, index, side="right")) - 1
    return partial(open_row, root, *groups[number], index - int(starts[number]))


def _relative(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix() if file != root else file.name


def _splits(root: Path, files: list[Path]) -> list[str | None]:
    """By the rules of folders, as if each file were a folder with its split's name."""
    words = []
    for file in files:
        parents = [parent.name for parent in file.parents if parent.is_relative_to(root) and parent != root]
        said = [match for name in (file.stem, *parents) if (match := _SPLIT.fullmatch(name))]
        words.append(said[0][1] if said else _relative(file, root).partition("/")[0])
    try:
        known = split_folders(pa.array([f"{word}/class/image".encode() for word in words], pa.large_binary()))
    except SourceError as error:
        raise SourceError(f"{root} {error}") from error
    splits = [known.get(word) for word in words]
    return splits if len({*splits}) > 1 else [None] * len(files)


def _image_column(file: Path, schema: pa.Schema) -> str:
    """Raises SourceError where there is none, or several without one of the usual names."""
    found = [field.name for field in schema if _holds_images(field.type)]
    usual = [name for name in _IMAGE_NAMES if name in found]
    if not usual and len(found) != 1:
        raise SourceError(
            f"{file} has the columns {', '.join(schema.names)}; images are bytes, or a struct with bytes, "
            f"in a column {', '.join(_IMAGE_NAMES)} or in the only such one"
        )
    return str((usual or found)[0])


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _holds_images(kind.field(place).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _check_paths(root: Path, file: Path, image: str) -> None:
    for path in paths_without_bytes(file, image):
        if root.is_file():
            raise SourceError(f"{file} has paths in place of images; give the folder of both")
        path_inside(root, path, file)


def _labels(file: Path, schema: pa.Schema, num_rows: int) -> pa.ChunkedArray:
    """Class names, or numbers where nothing says what they mean; null for images without a label."""
    column = next((name for name in _LABEL_NAMES if name in schema.names), None)
    if column is None:
        return pa.chunked_array([pa.nulls(num_rows, pa.string())])
    kind = schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_integer(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise SourceError(f"{file}: labels in {column} are {kind}; use integers or text")
    labels = read_column(file, column)
    if len(labels) != num_rows:
        raise SourceError(f"{file} is said to have {num_rows:,} rows and has {len(labels):,}; get it again")
    with reading(file):
        if not pa.types.is_integer(kind):
            return _texts(labels)
        return _numbers(file, schema, column, labels.cast(kind).cast(pa.int64()))


def _texts(labels: pa.ChunkedArray) -> pa.ChunkedArray:
    """Plain text, of which nothing is too long: it is checked before it stands in every row."""
    labels.validate(full=True)
    for chunk in labels.chunks:
        refuse_long(chunk.dictionary if pa.types.is_dictionary(chunk.type) else chunk)
    return labels.cast(pa.string())


def _numbers(file: Path, schema: pa.Schema, column: str, numbers: pa.ChunkedArray) -> pa.ChunkedArray:
    """Class names where they are known."""
    numbers = pc.if_else(pc.equal(numbers, _UNLABELLED), pa.scalar(None, pa.int64()), numbers)
    names = _known_names(schema, column)
    bounds = pc.min_max(numbers).as_py()
    if bounds["max"] is not None and (bounds["min"] < 0 or (names and bounds["max"] >= len(names))):
        raise SourceError(
            f"{file}: labels in {column} run from {bounds['min']} to {bounds['max']}; {len(names)} have names"
        )
    return pa.array(map(printable, names), pa.string()).take(numbers) if names else numbers


def _known_names(schema: pa.Schema, column: str) -> list[str]:
    """A ClassLabel's names, from what Hugging Face notes beside the schema."""
    try:
        noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = noted["info"]["features"][column]["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def _class_names(files: list[Path], labels: list[pa.ChunkedArray]) -> list[str | None]:
    """Numbers are filled with zeros, so that they sort as numbers. Raises SourceError for labels in part."""
    missing = [own.null_count for own in labels]
    if any(missing) and sum(missing) < sum(map(len, labels)):
        worst = int(np.argmax(missing))
        raise SourceError(
            f"{files[worst]}: {missing[worst]} images have no label, others have; take this file away"
        )
    numbers = [own for own in labels if pa.types.is_integer(own.type)]
    if not numbers:
        return [name and printable(name) for own in labels for name in own.to_pylist()]
    if len(numbers) < len(labels):
        raise SourceError(
            f"{files[0].parent} has labels with names in some tables and numbers in others; use one"
        )
    width = len(str(max(pc.max(own).as_py() or 0 for own in numbers)))
    return [
        number if number is None else f"{number:0{width}d}" for own in numbers for number in own.to_pylist()
    ]
