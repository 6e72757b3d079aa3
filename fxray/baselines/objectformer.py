"""ObjectFormer (Wang et al., CVPR 2022, "ObjectFormer for Image Manipulation Detection and Localization").

Rebuilt from the paper's abstract and descriptions of it, not held against its full text. As there: the image and its
high frequencies (a DCT, a high-pass filter, the inverse DCT) become patches of one sequence with sines of their
places; learnable object prototypes attend to the patches and mix with one another (object encoder), patches attend to
the prototypes (patch decoder), and the likeness of each place with its window weighs the patches (boundary-sensitive
contextual incoherence), stage after stage; the mask is up-sampled step by step, the label is linear in the mean of all
patches, and both losses are weighed and added.

The authors' public code (github.com/wdrink/Objectformer) is another network: without frequencies and windows'
likeness, in four stages of growing width. No weights fit this one, and none of its numbers can be held against theirs.

Ours: which frequencies are high, the 3 x 3 window, its mean without padding and the residual beside it, norms, widths,
numbers of stages, prototypes and heads of both sizes, and the up-sampling's convolutions. The masks' weight is that of
the public configuration; their loss is `fxray.baselines.segmenter.mask_loss`, as for `segformer`. Deviations: a few
convolutions from random weights embed the patches, in place of an EfficientNet-b4 of ImageNet; boxes become masks;
AdamW with a cosine, flips as the only augmentation.

Crops: none. The image is resized to 256 x 256 px (small: 112 x 112), and the mask back to the image's own size; flips.

Legend: B images, H and W pixels or places, N prototypes, T patches of both kinds, C channels.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from fxray.baselines.ports import Settings, Size
from fxray.baselines.segmenter import Segmenter
from fxray.baselines.training import Recipe, open_device


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a network.

    Attributes:
        width: Channels of patches and prototypes, a multiple of 4, and of the heads.
        num_stages: Pairs of object encoder and patch decoder.
        num_prototypes: Objects that are told apart.
        num_heads: Of each attention.
    """

    width: int
    num_stages: int
    num_prototypes: int
    num_heads: int


_SIDES_PX: dict[Size, int] = {"small": 112, "published": 256}
_SHAPES: dict[Size, Shape] = {"small": Shape(64, 2, 8, 4), "published": Shape(256, 8, 16, 8)}
_RECIPES: dict[Size, Recipe] = {"small": Recipe(2, 16, 2e-3), "published": Recipe(90, 24, 1e-4)}
_LOW_FRAC = 0.25
"""Frequencies below this sum of the two directions' shares of the highest one are filtered out."""
_NUM_HALVINGS = 3
"""Convolutions of stride 2 in front, and doublings of the mask: a patch has 8 x 8 px."""
_WINDOW = 3
_MLP_RATIO = 2
_MASK_WEIGHT = 4.0


class ObjectFormerNet(nn.Module):
    """Masks and labels from patches of pixels and of high frequencies."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_pixels, self.embed_frequencies = _embedding(shape), _embedding(shape)
        self.prototypes = nn.Parameter(torch.randn(1, shape.num_prototypes, shape.width) * 0.02)
        self.stages = nn.ModuleList(Stage(shape) for _ in range(shape.num_stages))
        self.norm = nn.LayerNorm(shape.width)
        self.label_head = nn.Linear(shape.width, 1)
        widths = [2 * shape.width, *(max(16, shape.width >> step) for step in range(1, _NUM_HALVINGS + 1))]
        self.up = nn.ModuleList(_convolution(num_in, num_out, 1) for num_in, num_out in pairwise(widths))
        self.mask_head = nn.Conv2d(widths[-1], 1, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Label logits [B] and mask logits [B, H, W], rounded up to whole patches, of images [B, 3, H, W]."""
        maps = self.embed_pixels(x), self.embed_frequencies(high_pass(x))
        height, width = maps[0].shape[-2:]
        places_TC = positions(height, width, maps[0].shape[1], x.device)
        patches_BTC = torch.cat([each.flatten(2).mT + places_TC for each in maps], 1)
        objects_BNC = self.prototypes.expand(len(x), -1, -1)
        for stage in self.stages:
            patches_BTC, objects_BNC = stage(patches_BTC, objects_BNC, height)
        patches_BTC = self.norm(patches_BTC)
        mask = _as_map(patches_BTC, height)
        for convolution in self.up:
            mask = functional.interpolate(convolution(mask), scale_factor=2, mode="bilinear")
        return self.label_head(patches_BTC.mean(1)).squeeze(1), self.mask_head(mask).squeeze(1)


class Stage(nn.Module):
    """An object encoder and a patch decoder."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.encoder, self.decoder = Attending(shape), Attending(shape)
        self.mixing = nn.Linear(shape.num_prototypes, shape.num_prototypes, bias=False)

    def forward(
        self, patches_BTC: torch.Tensor, objects_BNC: torch.Tensor, height: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Both after the stage; patches lie in rows of a map so many rows high, those of pixels first."""
        objects_BNC = self.encoder(objects_BNC, patches_BTC)
        objects_BNC = objects_BNC + self.mixing(objects_BNC.mT).mT
        patches_BTC = self.decoder(patches_BTC, objects_BNC)
        likeness = window_likeness(_as_map(patches_BTC, height)).flatten(2).mT
        return patches_BTC * (1 + torch.cat([likeness, likeness], 1)), objects_BNC


class Attending(nn.Module):
    """Cross-attention and a feed-forward network, each beside a residual."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.norm_asking, self.norm_asked, self.norm = (nn.LayerNorm(shape.width) for _ in range(3))
        self.attention = nn.MultiheadAttention(shape.width, shape.num_heads, batch_first=True)
        inner = _MLP_RATIO * shape.width
        self.feed_forward = nn.Sequential(nn.Linear(shape.width, inner), nn.GELU(), nn.Linear(inner, shape.width))

    def forward(self, asking: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        """The ones that ask, with what they found, in their shape [B, theirs, C]."""
        source = self.norm_asked(asked)
        found, _ = self.attention(self.norm_asking(asking), source, source, need_weights=False)
        asking = asking + found
        return asking + self.feed_forward(self.norm(asking))


class ObjectFormer(Segmenter):
    """Its masks and labels."""

    def __init__(self, settings: Settings) -> None:
        torch.manual_seed(settings.seed)
        super().__init__(
            ObjectFormerNet(_SHAPES[settings.size]),
            open_device(settings.device),
            _RECIPES[settings.size].with_epochs(settings.epochs),
            side_px=_SIDES_PX[settings.size],
            mask_weight=_MASK_WEIGHT,
            seed=settings.seed,
        )


def high_pass(x_BCHW: torch.Tensor) -> torch.Tensor:
    """Images without their low frequencies, by an orthonormal DCT over all of each and its inverse; in float32."""
    height, width = x_BCHW.shape[-2:]
    with torch.autocast(x_BCHW.device.type, enabled=False):
        rows, columns = _cosines(height, x_BCHW.device), _cosines(width, x_BCHW.device)
        share_HW = torch.arange(height)[:, None] / height + torch.arange(width) / width
        is_high_HW = (share_HW >= _LOW_FRAC).to(x_BCHW.device)
        return rows.T @ (rows @ x_BCHW.float() @ columns.T * is_high_HW) @ columns


def window_likeness(x_BCHW: torch.Tensor) -> torch.Tensor:
    """The mean cosine of each place with the places of its window, itself among them, [B, 1, H, W]."""
    unit = functional.normalize(x_BCHW, dim=1)
    mean = functional.avg_pool2d(unit, _WINDOW, stride=1, padding=_WINDOW // 2, count_include_pad=False)
    return (unit * mean).sum(1, keepdim=True)


def positions(height: int, width: int, channels: int, device: torch.device) -> torch.Tensor:
    """Sines and cosines of rows, then of columns, [H W, C]."""
    rates = torch.exp(-math.log(10000) * torch.arange(channels // 4, device=device) / (channels // 4))
    y, x = (torch.arange(length, device=device)[:, None] * rates for length in (height, width))
    rows, columns = (torch.cat([angle.sin(), angle.cos()], 1) for angle in (y, x))
    return torch.cat([rows.repeat_interleave(width, 0), columns.repeat(height, 1)], 1)


def _cosines(length: int, device: torch.device) -> torch.Tensor:
    """The orthonormal DCT-II as a matrix, a frequency a row."""
    places = torch.arange(length, device=device)
    matrix = torch.cos(math.pi / length * (places + 0.5) * places[:, None]) * math.sqrt(2 / length)
    matrix[0] /= math.sqrt(2)
    return matrix


def _as_map(patches_BTC: torch.Tensor, height: int) -> torch.Tensor:
    """Both kinds of patches as channels of one map, [B, 2 C, H, W]."""
    batch, num_patches, channels = patches_BTC.shape
    by_kind = patches_BTC.view(batch, 2, num_patches // 2, channels)
    return by_kind.permute(0, 1, 3, 2).reshape(batch, 2 * channels, height, -1)


def _embedding(shape: Shape) -> nn.Sequential:
    """From pixels to patches, whose width doubles at each halving."""
    widths = [3, *(shape.width >> step for step in reversed(range(_NUM_HALVINGS)))]
    return nn.Sequential(*(_convolution(num_in, num_out, 2) for num_in, num_out in pairwise(widths)))


def _convolution(num_in: int, num_out: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(num_in, num_out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(num_out, momentum=0.1), nn.GELU()
    )
