"""Adversarial training of the classifier, and dual adversarial training (DAT): the two stages' objectives."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from atjem.attacks import Ascent, Attacked, pgd_together
from atjem.balls import Ball, Unbounded
from atjem.energies import class_logit, energy_from_logits
from atjem.losses import classifier_loss, energy_loss, r1_penalty
from atjem.objectives import MODES, cross_entropy
from atjem.scores import accuracy
from atjem.training_objective import Batch, Networks, Objective, Terms


@dataclass(frozen=True)
class ClassifierAttack:
    """PGD on the cross-entropy, from the image itself."""

    ball: Ball
    step_size: float
    num_steps: int

    def on(self, x: Tensor, y: Tensor) -> Ascent:
        return Ascent(x, y, cross_entropy, self.ball, self.step_size, self.num_steps)


@dataclass
class AdversarialTraining(Objective):
    """Stage 1: cross-entropy at PGD examples (Madry et al. 2018). `attack` None: plain training."""

    attack: ClassifierAttack | None
    freezes_norm: bool = False

    def terms(self, networks: Networks, batch: Batch, num_steps: int) -> Terms:
        ascents = [self.attack.on(batch.x, batch.y)] if self.attack else []
        x_adv = pgd_together(networks.attack, ascents)[0].x if ascents else batch.x
        logits = networks.update(x_adv)
        loss = classifier_loss(logits, batch.y).mean()
        return Terms(
            loss, {"classifier_loss": loss.detach(), "adversarial_accuracy": accuracy(logits, batch.y)}
        )


@dataclass
class DualAdversarialTraining(Objective):
    """Stage 2 (DAT): adversarial training of the classifier and of the energy (arXiv 2510.13872).

    loss = w_clf * CE(f(x_adv), y) + w_energy * BCE(-E; real, contrastive) + w_r1 * R1(real)
    """

    attack: ClassifierAttack
    contrastive_step_size: float
    mode: str = "joint"
    classifier_weight: float = 1.0
    energy_weight: float = 1.0
    r1_weight: float = 0.0
    freezes_norm: bool = True

    def terms(self, networks: Networks, batch: Batch, num_steps: int) -> Terms:
        assert batch.x_real is not None
        assert batch.y_real is not None
        adversarial, contrast = self._attack(networks.attack, batch, num_steps)
        logits = networks.update(torch.cat([adversarial.x, batch.x_real, contrast.x]))
        logits_adv, logits_real, logits_contrast = logits.split(
            [len(adversarial.x), len(batch.x_real), len(contrast.x)]
        )
        clf = classifier_loss(logits_adv, batch.y).mean()
        bce = energy_loss(logits_real, logits_contrast).mean()
        loss = self.classifier_weight * clf + self.energy_weight * bce
        logits_seed = logits_contrast if contrast.logits_start is None else contrast.logits_start
        watched = {
            "classifier_loss": clf,
            "energy_loss": bce,
            "adversarial_accuracy": accuracy(logits_adv, batch.y),
            "energy_real": energy_from_logits(logits_real).mean(),
            "energy_contrast": energy_from_logits(logits_contrast).mean(),
            "energy_seed": energy_from_logits(logits_seed).mean(),
        }
        if contrast.gradient_norms is not None:
            watched["input_gradient"] = contrast.gradient_norms.mean()
        if self.r1_weight > 0:
            watched["r1"] = r1_penalty(networks.model, batch.x_real).mean()
            loss = loss + self.r1_weight * watched["r1"]
        return Terms(
            loss,
            {name: value.detach() for name, value in watched.items()},
            class_logit(logits_real, batch.y_real).detach(),
            class_logit(logits_contrast, batch.y_real).detach(),
        )

    def _attack(self, network: nn.Module, batch: Batch, num_steps: int) -> list[Attacked]:
        """x_adv and x_contrast, climbed together: one batch for the steps that both have."""
        assert batch.y_real is not None
        assert batch.x_seed is not None
        towards_class = Ascent(
            batch.x_seed,
            batch.y_real,
            MODES[self.mode],
            Unbounded(),
            self.contrastive_step_size,
            num_steps,
        )
        return pgd_together(network, [self.attack.on(batch.x, batch.y), towards_class])
