"""Small Parquet files and saved Hugging Face data sets."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.data_files import picture

STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
NAMES = ["zebra", "ant", "cat with 'quotes' 猫"]


def structs(num: int, first: int = 0) -> pa.Array:
    return pa.array([{"bytes": picture(first + n), "path": f"{n}.png"} for n in range(num)], STRUCT)


def noted(table: pa.Table, column: str = "label", names: list[str] = NAMES) -> pa.Table:
    """With class names where Hugging Face notes them."""
    features = {"image": {"_type": "Image"}, column: {"names": names, "_type": "ClassLabel"}}
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def write_parquet(path: Path, num: int = 6, first: int = 0, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": structs(num, first), "label": [n % 3 for n in range(num)]})
    pq.write_table(noted(table), path, row_group_size=4, **options)
    return path


def write_stream(folder: Path, num: int = 6, first: int = 0) -> Path:
    """As `save_to_disk` writes one split: two files of batches of two rows."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [f"data-{n:05d}-of-00002.arrow" for n in range(2)]
    half = num // 2
    for number, file in enumerate(files):
        labels = [n % 3 for n in range(number * half, (number + 1) * half)]
        table = noted(pa.table({"image": structs(half, first + number * half), "label": labels}))
        with pa.OSFile(str(folder / file), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
            writer.write_table(table, max_chunksize=2)
    state = {"_data_files": [{"filename": file} for file in files], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def write_dict(folder: Path, **splits: int) -> Path:
    for first, (split, num) in enumerate(splits.items()):
        write_stream(folder / split, num, 100 * first)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": [*splits]}))
    return folder


def table_of(path: Path, **columns: object) -> Path:
    pq.write_table(pa.table(columns), path)
    return path
