"""Visual counterfactual explanations: the small change that makes the model see another class."""

from torch import Tensor, nn

from atjem.attacks import pgd
from atjem.balls import make_ball
from atjem.inputs import check_mode
from atjem.objectives import joint


def counterfactual(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    *,
    eps: float,
    step_size: float | None = None,
    num_steps: int = 75,
    norm: str = "L2",
) -> Tensor:
    """Ascends f(x)[target] from a real image within an `eps` ball around it (DAT; Augustin et al. 2020).

    x: (B, C, H, W) float32 in [0, 1]; target: (B,) int64; eps in pixel units; `step_size` defaults to
    eps / 25. Returns images like x; ValueError for other input.
    """
    check_mode(model)
    return pgd(
        model,
        x,
        target,
        objective=joint,
        ball=make_ball(norm, eps),
        step_size=eps / 25 if step_size is None else step_size,
        num_steps=num_steps,
    )
