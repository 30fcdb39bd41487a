"""Images in a pipeline of Ray Data: rows in, facts and paths out.

    STABILITY_API_KEY=... python -m examples.ray_pipeline prompts.parquet s3://bucket/images made

The table needs the columns `id` and `prompt`; others are kept with the images. Run it again after
any failure: images that exist are found, and nothing is paid twice.
"""

import sys

import ray

from stable_async import SharedQuota
from stable_async.integrations.ray import MakeImages


def main(prompts: str, images: str, made: str) -> None:
    settings = {"images": images, "quota": SharedQuota.ray("stability")}
    pool = ray.data.ActorPoolStrategy(size=2)
    rows = ray.data.read_parquet(prompts)
    facts = rows.map_batches(MakeImages, fn_constructor_kwargs=settings, compute=pool, num_cpus=0.1)
    facts.write_parquet(made)


if __name__ == "__main__":
    main(*sys.argv[1:])
