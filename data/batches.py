"""One stream of a collection: what a worker sees at each step, computed from the step alone."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data.augment import Augmentation
from data.devices import to_device
from data.images import Images, Indices, MemoryImages
from data.rng import stream_seed
from data.stream import Order


@dataclass(frozen=True)
class Stream:
    """A worker's part of global batches, under the stream's own order and augmentation.

    Streams of other names are independent, over the same images too. The state is the step: a stream that is
    opened at step k gives the very batches, augmentation included, that one would give that came from step 0.
    """

    images: Images
    order: Order
    augmentation: Augmentation
    augment_seed: int
    part: Indices
    device: torch.device

    @staticmethod
    def of(
        images: Images,
        name: str,
        *,
        seed: int,
        batch_size: int,
        augment: str,
        part: Indices,
        device: torch.device,
    ) -> "Stream":
        """part: this worker's of each global batch (`data.stream.rank_part`); device: where to augment."""
        if isinstance(images, MemoryImages):
            images = images.to(device)
        order = Order(len(images), batch_size, stream_seed(seed, f"{name}/order"), images.shards)
        augment_seed = stream_seed(seed, f"{name}/augment")
        return Stream(images, order, Augmentation.parse(augment), augment_seed, part, device)

    def indices(self, step: int) -> Indices:
        """Places in the collection of this worker's images at `step`."""
        return self.order.batch(step)[self.part]

    def view(self, step: int, indices: Indices) -> Tensor:
        """Those images as the stream augments them at `step`. Returns (B, C, S, S) uint8 on the device."""
        return self.augmentation.view(self.images, indices, self.draw(step), self.device)

    def draw(self, step: int) -> Tensor:
        """This worker's part of the augmentation's random numbers."""
        return self.augmentation.draw(self.order.batch_size, self.augment_seed, step)[self.part]


def paired_views(streams: Sequence[Stream], step: int, indices: Indices) -> list[Tensor]:
    """The same images as each of several streams over one collection augments them, decoded once."""
    drawn = [stream.draw(step) for stream in streams]
    crops = [
        stream.augmentation.crops(stream.images, own) for stream, own in zip(streams, drawn, strict=True)
    ]
    views = streams[0].images.get_views(indices, crops)
    return [
        stream.augmentation.apply(to_device(images, stream.device), own, overwrite=True)
        for stream, images, own in zip(streams, views, drawn, strict=True)
    ]
