"""Tables of docs/scaling.md about what surrounds the step: data, checkpoints, looks, the driver, losses."""

import math

from . import given
from .given import H100, RECIPES, Recipe, achieved, recipe
from .goodput import best_interval, daly_interval, expected_goodput, mean_goodput, young_interval
from .model import GPUS_PER_NODE, checkpoint_bytes, images_needed, pass_seconds
from .tables import BATCH, NETWORKS, SCALES, markdown, one_step, short


def data() -> str:
    """Images that must be decoded, the CPUs for it, and what the store has to give."""
    rows = []
    for name in RECIPES:
        for num in SCALES:
            needed, nodes = images_needed(BATCH, one_step(recipe(name), num).total), num // GPUS_PER_NODE
            cpus = needed / nodes / given.STREAM_RATE
            rate = needed * given.IMAGE_BYTES / 1e6
            rows.append((NETWORKS[name], f"{num}", f"{needed:,.0f}", f"{cpus:.1f}", f"{rate:,.0f} MB/s"))
    return markdown(
        "network | GPUs | images/s | CPUs a node | read from the nodes' disks, all together", rows
    )


def first_fetch() -> str:
    """Each node brings all shards to its own disk once."""
    size, rows = given.dataset_bytes(), []
    for num in SCALES:
        nodes = num // GPUS_PER_NODE
        together = nodes * size
        alone, shared = size / given.NODE_NETWORK, together / given.NODE_NETWORK
        rows.append((f"{nodes}", f"{together / 1e12:.2f} TB", short(alone), short(max(alone, shared))))
    return markdown("nodes | in all | a store as fast as all nodes | a store of one machine, 10 Gb/s", rows)


def saved_bytes(of: Recipe) -> int:
    return checkpoint_bytes(of.work.parameters, of.moments, keeps_best=True)


def checkpoints() -> str:
    rows = []
    for name in RECIPES:
        of, every = recipe(name), recipe(name).settings.stage2.checkpoint_every
        size = saved_bytes(of)
        writing = size * (given.WRITE_SECONDS + given.HASH_SECONDS)
        for num in SCALES:
            between = every * one_step(of, num).total
            rows.append(
                [
                    NETWORKS[name],
                    f"{num}",
                    f"{size / 1e9:.2f} GB",
                    short(between),
                    f"{size / between / 1e6:.0f} MB/s",
                    short(writing),
                    f"{given.PAUSE_SECONDS / (given.PAUSE_SECONDS + between):.1%}",
                ]
            )
    head = "network | GPUs | a checkpoint | every 250 steps are | upload"
    return markdown(f"{head} | written in | of the time, while it is copied", rows)


def look_seconds(of: Recipe, num_gpus: int) -> tuple[float, float]:
    """(sampling and features, distances) of one look; each rank does whole batches, and some distances."""
    settings, candidates = of.settings, of.settings.sample.step_candidates
    batches = math.ceil(math.ceil(settings.stage2.select_samples / settings.sample.batch_size) / num_gpus)
    one = pass_seconds(
        of.work.attack,
        settings.sample.batch_size,
        H100,
        of.precision,
        achieved(of.precision),
        H100.launch,
    )
    images = settings.sample.batch_size * len(candidates)
    features = images * given.INCEPTION_FLOPS / (achieved("tf32") * H100.peak["fp32"])
    distances = math.ceil(len(candidates) / num_gpus) * given.FRECHET_SECONDS
    return batches * (max(candidates) * one + features), distances


def looks() -> str:
    rows = []
    for name in RECIPES:
        of = recipe(name)
        for num in SCALES:
            sampling, distances = look_seconds(of, num)
            between = of.settings.stage2.select_every * one_step(of, num).total
            shares = [part / (between + sampling + distances) for part in (sampling, distances)]
            cells = (short(between), short(sampling), short(distances))
            rows.append((NETWORKS[name], f"{num}", *cells, *(f"{share:.1%}" for share in shares)))
    head = "network | GPUs | every 500 steps are | sampling, features | distances"
    return markdown(f"{head} | share of sampling | share of distances", rows)


def driver() -> str:
    """What does not grow with the model but with the number of workers or of steps a second."""
    of, rows = recipe("imagenet256"), []
    for num in SCALES:
        polls, steps = num / 0.2, 1 / one_step(of, num).total
        points = 12 * steps / of.settings.compute.log_every
        asked = f"{polls:,.0f} ({polls / given.RAY_CALLS:.0%})"
        rows.append((f"{num}", asked, f"{num / 5:,.0f}", "2", f"{points:.1f}"))
    head = (
        "GPUs | answers/s that Train's controller collects every 0.2 s (of what one process can) | every 5 s"
    )
    return markdown(f"{head} | progress messages/s | points/s to MLflow", rows)


def goodput(runs: int = 300) -> str:
    """ConvNeXt-L for 20 hours of training: simulated, with Young's and Daly's intervals beside."""
    of, work, rows = recipe("imagenet256-convnext-large"), 20 * 3600.0, []
    size = saved_bytes(of)
    pause = given.PAUSE_SECONDS
    for hours, spot in ((given.RESERVED_HOURS, False), (given.SPOT_HOURS, True)):
        for num in SCALES:
            job = given.failing(num // GPUS_PER_NODE, hours, pause, size, spot=spot)
            mean, recipes = job.mean_seconds, 250 * one_step(of, num).total
            young, daly = young_interval(pause, mean), daly_interval(pause, mean)
            best, most = best_interval(job, work, runs, candidates(daly))
            told = expected_goodput(daly, pause, job.restart + job.wait, mean)
            rows.append(
                [
                    "spot" if spot else "reserved",
                    f"{num}",
                    short(mean),
                    short(young),
                    short(daly),
                    short(best),
                    f"{most:.1%}",
                    f"{told:.1%}",
                    short(recipes),
                    f"{mean_goodput(job, recipes, work, runs):.1%}",
                ]
            )
    head = "machines | GPUs | a loss every | Young | Daly | best simulated | goodput there | by formula"
    return markdown(f"{head} | 250 steps | goodput there", rows)


def candidates(middle: float) -> list[float]:
    return [middle * factor for factor in (0.25, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0, 8.0)]


TABLES = {part.__name__: part for part in (data, first_fetch, checkpoints, looks, driver, goodput)}
