"""Batch norm over the images of all ranks, so that training on several is training on one.

Torch's `SyncBatchNorm` exists on GPUs only, does not cover vector fields, and is not found by code that looks for batch
norms. Here the layers keep their types' names and state, and gain the statistics of the other ranks.
"""

from typing import Any, Final, cast

import torch
from pytorch_lightning.plugins import LayerSync
from torch import Tensor, distributed, nn
from typing_extensions import override

from symmetry_robustness.layers.fields import VectorBatchNorm


class SyncedBatchNorm(LayerSync):
    """Synchronises the statistics of batch norms over the ranks during training."""

    @override
    def apply(self, model: nn.Module) -> nn.Module:
        """Synchronise batch norms in place, unless there is one rank."""
        if distributed.is_initialized() and distributed.get_world_size() == 1:
            return model
        return _change_types(model, _SHARED)

    @override
    def revert(self, model: nn.Module) -> nn.Module:
        """Make them ordinary again, in place."""
        return _change_types(model, {shared: plain for plain, shared in _SHARED.items()})


class _Normalise(torch.autograd.Function):
    """Batch norm with moments over all ranks, from torch's kernels: once for the moments, once to normalise.

    Backward, torch's kernel for fixed moments is corrected by the gradient through the moments.
    """

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count = features.numel() // features.shape[1]
        _, own_mean, own_factor = torch.native_batch_norm(features, weight, bias, None, None, True, 0.0, eps)
        own = torch.cat([own_mean, own_factor**-2 - eps, torch.full_like(own_mean[:1], count)])
        gathered = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
        distributed.all_gather(gathered, own)
        ranks = torch.stack(gathered)
        (means, variances), counts = ranks[:, :-1].chunk(2, dim=1), ranks[:, -1:]
        total = counts.sum()
        mean = (counts * means).sum(0) / total
        variance = (counts * (variances + (means - mean).square())).sum(0) / total
        ctx.save_for_backward(features, weight, mean, variance, total)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, total)
        normed, _, _ = torch.native_batch_norm(features, weight, bias, mean, variance, False, 0.0, eps)
        return normed, mean, variance, total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        features, weight, mean, variance, total = ctx.saved_tensors
        factor = torch.rsqrt(variance + ctx.eps)
        # Twice the same moments: some kernels take the first pair, others the second.
        fixed, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, features, weight, mean, variance, mean, factor, False, ctx.eps, [True] * 3
        )
        sums = torch.cat([of_weight, of_bias])
        distributed.all_reduce(sums)
        all_weight, all_bias = sums.chunk(2)
        slope = -weight * factor**2 * all_weight / total
        constant = -weight * factor * all_bias / total - slope * mean
        shape = (-1, *[1] * (features.dim() - 2))
        moved = torch.addcmul(constant.view(shape), features.to(slope.dtype), slope.view(shape))
        return (fixed + moved).to(features.dtype), of_weight, of_bias, None


class _SharedMoments(nn.modules.batchnorm._BatchNorm):
    """Means and variances over the batches of all ranks; evaluation mode is as usual."""

    def forward(self, features: Tensor) -> Tensor:
        """Normalise (B, C, ...)."""
        if not self.training:
            return super().forward(features)
        self._check_input_dim(features)  # type: ignore[no-untyped-call]
        return cast(Tensor, self._normalise(features))

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # waits for the other ranks
    def _normalise(self, features: Tensor) -> Tensor:
        exact = torch.promote_types(features.dtype, torch.float32)
        weight = self.weight if self.affine else features.new_ones(self.num_features, dtype=exact)
        bias = self.bias if self.affine else torch.zeros_like(weight)
        normed, mean, variance, total = _Normalise.apply(features, weight, bias, self.eps)  # type: ignore[no-untyped-call]
        self._remember(mean, variance * (total / (total - 1).clamp(min=1)))
        return cast(Tensor, normed)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        momentum = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)

    def export(self) -> nn.Module:
        """Return the ordinary layer: exported networks run on one rank alone."""
        return SyncedBatchNorm().revert(self)


class _SharedBatchNorm1d(_SharedMoments, nn.BatchNorm1d):
    pass


class _SharedBatchNorm2d(_SharedMoments, nn.BatchNorm2d):
    pass


class _Sum(torch.autograd.Function):
    """Sum over ranks. The gradient of all ranks' losses together is again a sum over ranks."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return _Sum.apply(gradients[0])  # type: ignore[no-untyped-call]


@torch.compiler.disable  # type: ignore[untyped-decorator]  # waits for the other ranks
def _mean_over_ranks(own: Tensor, count: int) -> Tensor:
    """The mean over all ranks of a mean (C,) over `count` numbers of this rank."""
    sums: Tensor = _Sum.apply(torch.cat([own * count, torch.full_like(own[:1], count)]))  # type: ignore[no-untyped-call]
    return sums[:-1] / sums[-1].detach()


class _SharedVectorBatchNorm(VectorBatchNorm):
    """Mean squares over the batches of all ranks."""

    def _mean_square(self, features: Tensor) -> Tensor:
        count = features.numel() // features.shape[1]
        return cast(Tensor, _mean_over_ranks(super()._mean_square(features), count))


_SHARED: Final[dict[type[nn.Module], type[nn.Module]]] = {
    nn.BatchNorm1d: _SharedBatchNorm1d,
    nn.BatchNorm2d: _SharedBatchNorm2d,
    VectorBatchNorm: _SharedVectorBatchNorm,
}


def _change_types(model: nn.Module, kinds: dict[type[nn.Module], type[nn.Module]]) -> nn.Module:
    """Change the types of modules in place; their state and hooks stay."""
    for module in model.modules():
        if type(module) in kinds:
            module.__class__ = kinds[type(module)]
    return model
