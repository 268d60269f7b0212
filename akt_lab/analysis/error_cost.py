"""What one feature map's quantization error costs, and which part of it costs how much.

AKT distils spatial and channel attention because errors there are said to be the costly ones. To
second order an error e of the teacher's map costs ½ e'He, H the Hessian of the distillation loss
in that map; here e is split into what changes attention and what does not.
"""

import pandas as pd
import torch
from torch import Tensor, nn

from akt_lab.analysis.curvature import Hessian, distillation_hessian
from akt_lab.analysis.smooth import private_copy
from akt_lab.errors import AktError
from akt_lab.graph import capture_maps
from akt_lab.quantizer import affine_parameters, fake_quantize

SINGULAR = 1e-10  # of 1: an eigenvalue below it is zero


class _Shifted(nn.Module):
    """A network with something added to one of its feature maps."""

    def __init__(self, network: nn.Module, layer: str, like: Tensor) -> None:
        super().__init__()
        self.network, self.shift = network, nn.Parameter(like.new_zeros(like.shape))
        network.get_submodule(layer).register_forward_hook(lambda *call: call[2] + self.shift)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)


def map_hessian(
    teacher: nn.Module, layer: str, images: Tensor, temperature: float = 20.0
) -> tuple[Hessian, Tensor]:
    """The Hessian of the distillation loss in one feature map of the teacher, and that map.

    At the teacher's own map the loss is at its minimum: the Hessian is positive semi-definite.

    Args:
        teacher: in full precision; copied, and run in float64.
        layer: whose output is the map.
        images: (B, channels, S, S).
        temperature: of `kd_loss`.

    Returns:
        the Hessian (N, N), N = B*C*H*W, and the map (B, C, H, W), both float64.

    Raises:
        UsageError: for an unknown layer.
    """
    network, images = private_copy(teacher, torch.float64), images.double()
    with torch.no_grad(), capture_maps(network, [layer]) as maps:
        logits = network(images)
    shifted = _Shifted(network, layer, maps[layer])
    operator = distillation_hessian(shifted, [shifted.shift], images, logits, temperature)
    return operator, maps[layer]


def rounding_error(x: Tensor, bits: int) -> Tensor:
    """What one `bits`-bit grid over all of x changes: x_hat - x, of x's shape."""
    return fake_quantize(x, *affine_parameters(*x.aminmax(), bits), bits) - x


def attention_parts(error: Tensor, x: Tensor) -> tuple[dict[str, Tensor], dict[str, int]]:
    """An error's parts that change attention's energies to first order, and the rest.

    The gradient of mean_c(x²) at place p is x[:, p] there and 0 elsewhere; that of mean_hw(x²) of
    channel c is x[c, :]. So the projections are least-squares fits, sample by sample: of
    a[p] x[c, p] (`spatial`), of b[c] x[c, p] (`channel`), and of (a[p] + b[c]) x[c, p] (`both`),
    which is less than the two added up: their spaces share x itself and are not orthogonal.

    Args:
        error: (B, C, H, W).
        x: the map that it is an error of, same shape.

    Returns:
        parts, (B, C, H, W) in float64: spatial; channel; both; what only both has beyond channel
        (`spatial_alone`) and beyond spatial (`channel_alone`); `rest` = error - both, which
        changes neither; `all`. And the dimensions of the space of each, over the batch.

    Raises:
        AktError: if the shapes differ.
    """
    if error.shape != x.shape or x.ndim != 4:
        raise AktError(f"an error {tuple(error.shape)} does not fit a map {tuple(x.shape)}")
    e, v = (t.detach().double().flatten(2) for t in (error, x))  # (B, C, P)
    by_place, by_channel = (_inverse_norms(v, dim) for dim in (1, 2))  # (B, 1, P), (B, C, 1)
    place, channel = v * by_place, v * by_channel  # orthonormal: a column each, a row each
    on_place, on_channel = (e * place).sum(1), (e * channel).sum(2)  # (B, P), (B, C)
    spatial, channels = place * on_place.unsqueeze(1), channel * on_channel.unsqueeze(2)
    cosines = place * channel  # (B, C, P), between a channel's gradient and a place's
    inverse, rank = _pseudo_inverse(torch.diag_embed(_used(by_channel)) - cosines @ cosines.mT)
    beyond = inverse @ (on_channel.unsqueeze(2) - cosines @ on_place.unsqueeze(2))  # (B, C, 1)
    both = spatial + channel * beyond - place * (cosines.mT @ beyond).mT
    parts = {
        "spatial": spatial,
        "channel": channels,
        "spatial_alone": both - channels,
        "channel_alone": both - spatial,
        "both": both,
        "rest": e - both,
        "all": e,
    }
    s, c, n = int(_used(by_place).sum()), int(_used(by_channel).sum()), x.numel()
    dims = (s, c, s + rank - c, rank, s + rank, n - s - rank, n)
    return {k: t.view(x.shape) for k, t in parts.items()}, dict(zip(parts, dims, strict=True))


def _inverse_norms(x: Tensor, dim: int) -> Tensor:
    """1 / |x| along `dim`, kept; 0 where all is zero."""
    norms = torch.linalg.vector_norm(x, dim=dim, keepdim=True)
    return torch.where(norms > 0, 1 / norms, 0.0)


def _used(inverse_norms: Tensor) -> Tensor:
    return (inverse_norms > 0).double().flatten(1)


def _pseudo_inverse(gram: Tensor) -> tuple[Tensor, int]:
    """Of symmetric matrices (B, C, C) with eigenvalues from 0 to 1; and their ranks' sum."""
    values, vectors = torch.linalg.eigh(gram)
    kept = values > SINGULAR
    inverse = torch.where(kept, 1 / values, 0.0)
    return vectors @ (inverse.unsqueeze(2) * vectors.mT), int(kept.sum())


def cost_of_error(
    teacher: nn.Module, layer: str, images: Tensor, error: Tensor, temperature: float = 20.0
) -> pd.DataFrame:
    """The second-order cost of one feature map's error, whole and by `attention_parts`.

    Args:
        teacher: in full precision.
        layer: whose output is the map.
        images: (B, channels, S, S).
        error: the student's map minus the teacher's, or `rounding_error` of it, (B, C, H, W).
        temperature: of `kd_loss`.

    Returns:
        a row for each part e: `dims`, of its space; `square`, |e|², mean over the batch, and its
        `share` of the whole error's; `cost`, ½ e'He, in `kd_loss`'s unit; `cost_without`, that of
        the error less this part; `cross`, what the two cost together beyond that, so that the
        three add up to the cost of all; and `cost_per_square`. An error of random direction
        costs B trace(H) / 2N per square (`curvature.trace`, `map_hessian`).

    Raises:
        UsageError: for an unknown layer.
        AktError: if the error has not the map's shape.
    """
    operator, x = map_hessian(teacher, layer, images, temperature)
    parts, dims = attention_parts(error, x)
    curved = {name: operator @ part.flatten() for name, part in parts.items()}
    rows = []
    for name, part in parts.items():
        other, curved_other = (d["all"].flatten() - d[name].flatten() for d in (parts, curved))
        rows.append(
            {
                "part": name,
                "dims": dims[name],
                "square": part.square().sum().item() / len(x),
                "cost": 0.5 * (part.flatten() @ curved[name]).item(),
                "cost_without": 0.5 * (other @ curved_other).item(),
                "cross": (other @ curved[name]).item(),
            }
        )
    table = pd.DataFrame(rows).set_index("part")
    table.insert(2, "share", table["square"] / table.loc["all", "square"])
    return table.assign(cost_per_square=table["cost"] / table["square"])
