"""WebDataset shards as other people write them."""

from pathlib import Path

from tests.support.data_files import picture, write_tar


def make_shards(folder: Path, label=lambda n: {"cls": str(n % 3).encode()}, prefix: str = "shard") -> Path:
    for shard in range(3):
        members = {}
        for n in range(shard * 8, shard * 8 + 8):
            members[f"im_{n:04d}.png"] = picture(n, (24, 20))
            members |= {f"im_{n:04d}.{kind}": content for kind, content in label(n).items()}
        write_tar(folder / f"{prefix}-{shard:06d}.tar", members)
    return folder
