"""Captions in the schema of the DALL-E 3 dataset, in WebDataset tars."""

import io
import json
import random
import tarfile

NAMES = [*"abcdefghijklmnopqrstuvwxyz"]
SCHEMA = ["image_name", "md5_pil_hash", "md5_file_hash", "sha512_hash", "url", "original_prompt", "resolution"]


def caption(rng):
    return " ".join(rng.choices(NAMES, k=rng.randint(5, 20)))


def records(number):
    """Records in the schema of the DALL-E 3 captions; `short_caption2` is sometimes null or missing."""
    rng = random.Random(0)
    for place in range(number):
        record = dict.fromkeys(SCHEMA, "x") | {
            "width": 8,
            "height": 8,
            "source": rng.choice(["DALL-E 3", "Midjourney"]),
        }
        record |= {"short_caption": caption(rng), "long_caption": caption(rng), "long_caption2": caption(rng)}
        yield record | ({} if place % 10 == 0 else {"short_caption2": None if place % 10 == 1 else caption(rng)})


def write_tars(folder, rows, num_shards=3):
    folder.mkdir(parents=True)
    for shard in range(num_shards):
        with tarfile.open(folder / f"data-{shard:06}.tar", "w") as tar:
            for place, row in enumerate(rows[shard::num_shards]):
                text = row if isinstance(row, bytes) else json.dumps(row).encode()
                for suffix, data in (("json", text), ("jpg", b"\xff\xd8" * 700)):
                    info = tarfile.TarInfo(f"{shard}-{place}.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
    return folder
