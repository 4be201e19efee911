"""What other papers set otherwise than the ISEAT paper: changes of a data set's recipe. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from fastiseat.config import Config


def unchanged(config: Config) -> Config:
    """A method that takes what the data set's recipe says."""
    return config


def rice(config: Config) -> Config:
    """Rice et al., 2020: a random start, a learning rate that is set for every step, images normalised in front of the
    network, and nowhere a warm start.

    Not here: CIFAR-100's rotation by up to 15°, and the best epoch by the training attack. As with all other papers'
    recipes, the last partial batch is dropped, and the best epoch is ISEAT's.
    Their code updates BatchNorm's running statistics 13 times a step, here it is 11 (:class:`fastiseat.methods.AT`).
    """
    mean, std = _NORMALIZATIONS.get(config.data.dataset, ((), ()))
    return replace(
        config,
        network=replace(config.network, mean=mean, std=std),
        attack=replace(config.attack, random_start=True),
        schedule=replace(config.schedule, lr_per_step=True, warmup=0.0),
    )


# Of the training images; SVHN's are recalled, not read. Other data sets are not normalised.
_NORMALIZATIONS = {
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": (
        (0.5070751592371323, 0.48654887331495095, 0.4409178433670343),
        (0.2673342858792401, 0.2564384629170883, 0.27615047132568404),
    ),
    "svhn": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


def reflected(config: Config) -> Config:
    """Crops of images that are padded by reflection."""
    return replace(config, data=replace(config.data, padding_mode="reflect"))


def eval_attack(config: Config) -> Config:
    """The attack of TRADES and MART."""
    return replace(config, attack=replace(config.attack, bn_mode="eval", noise=0.001))


def trades(config: Config) -> Config:
    """lr 0.1, a tenth of it from the 75th of 76 epochs on, weight decay 2e-4."""
    config = eval_attack(config)
    return replace(
        config,
        optimizer=replace(config.optimizer, weight_decay=2e-4),
        schedule=replace(config.schedule, lr_drops=(74 / 76,), lam_from=0.0),
    )


def trades_awp(config: Config) -> Config:
    """Wu et al., 2020: ν from the 10th of 200 epochs on, drops with the 100th and the 150th (AT's come one epoch
    later), γ = 0.005, weight decay 5e-4.
    """
    config = eval_attack(config)
    plan = replace(config.schedule, awp_from=9 / 200, lr_drops=(99 / 200, 149 / 200))
    return replace(config, awp=replace(config.awp, gamma=0.005), schedule=plan)


def mart(config: Config) -> Config:
    """ResNet-18: lr 0.01, weight decay 3.5e-3, β = 5; wide: 0.1, 7e-4, 6. Of 120 epochs, drops at 75, 90 and 100."""
    config = eval_attack(config)
    wide = config.network.arch.startswith("wrn")
    scale = config.optimizer.lr / 0.1  # what a data set asks for, SVHN for one, it asks for here too
    return replace(
        config,
        objective=replace(config.objective, beta=6.0 if wide else 5.0),
        optimizer=replace(
            config.optimizer, lr=(0.1 if wide else 0.01) * scale, weight_decay=7e-4 if wide else 3.5e-3
        ),
        schedule=replace(config.schedule, lr_drops=(74 / 120, 89 / 120, 99 / 120)),
    )


def mart_awp(config: Config) -> Config:
    """MART with γ = 0.005."""
    config = mart(config)
    return replace(config, awp=replace(config.awp, gamma=0.005))


def ball(epochs: int) -> Callable[[Config], Config]:
    """The ball and steps of TRADES and MART on CIFAR-10, and how long they train."""

    def change(config: Config) -> Config:
        return replace(
            config,
            attack=replace(config.attack, eps=0.031, step_size=0.007),
            schedule=replace(config.schedule, epochs=epochs),
        )

    return change


def mart_cifar10(config: Config) -> Config:
    """A wide network's 90 epochs end before the third drop; others take 120."""
    if not config.network.arch.startswith("wrn"):
        return ball(120)(config)
    config = ball(90)(config)
    return replace(config, schedule=replace(config.schedule, lr_drops=(74 / 90, 89 / 90)))


def slore_cifar10(config: Config) -> Config:
    """MART's; the 90 epochs of a wide network end before the 100th, with which its term would come back."""
    config = mart_cifar10(config)
    if not config.network.arch.startswith("wrn"):
        return config
    return replace(config, objective=replace(config.objective, reverse_from=1.0))


def awp_wu(config: Config) -> Config:
    """Wu et al., 2020: the AT of Rice et al., 2020, with γ = 0.01."""
    config = rice(config)
    return replace(config, awp=replace(config.awp, gamma=0.01))


def awp_wu_svhn(config: Config) -> Config:
    """ν from the 6th of 200 epochs on."""
    return replace(config, schedule=replace(config.schedule, awp_from=5 / 200))


def hat(config: Config) -> Config:
    """OneCycle up to lr 0.21, Nesterov's momentum from 0.95 down to 0.85 meanwhile and back, as PyTorch's scheduler has
    it by default; ResNet-18 on CIFAR-10: 84.90% clean, 49.08% AutoAttack.

    PreActResNet-18, the paper's network on Tiny ImageNet, stands for its ResNet-18 elsewhere.
    """
    config = eval_attack(config)
    scale = config.optimizer.lr / 0.1  # that SVHN asks for a tenth here too is inferred
    return replace(
        config,
        optimizer=replace(config.optimizer, lr=0.21 * scale, nesterov=True),
        schedule=replace(config.schedule, lr_shape="onecycle", momentum_cycle=(0.95, 0.85), lam_from=0.0),
    )


def hat_epochs(config: Config) -> Config:
    """HAT's 50 epochs, where its paper trained."""
    return replace(config, schedule=replace(config.schedule, epochs=50))


def consistency(config: Config) -> Config:
    """PGD-10 from a uniform start in eval mode, all else as in AT.

    The authors' stronger set of augmentations is not here. Their PreActResNet-18 has its last BatchNorm after the stem,
    on Tiny ImageNet of stride 2: 46.50% clean, 15.09% AutoAttack there (ISEAT paper, Table 4).
    """
    network = config.network
    if network.arch == "prn18":
        on_tiny = config.data.dataset == "tinyimagenet"
        network = replace(network, variant="consistency-stride-2" if on_tiny else "consistency")
    return replace(config, network=network, attack=replace(config.attack, random_start=True, bn_mode="eval"))


def cropped(padding: int) -> Callable[[Config], Config]:
    """Of data that others do not augment: two views have to differ. Inferred."""

    def change(config: Config) -> Config:
        return replace(config, data=replace(config.data, crop_padding=padding))

    return change


def rst(config: Config) -> Config:
    """Carmon et al., 2019: TRADES with β = 6 on half labelled, half extra images, cosine, Nesterov."""
    config = eval_attack(config)
    return replace(
        config,
        optimizer=replace(config.optimizer, nesterov=True),
        schedule=replace(config.schedule, lr_shape="cosine", lam_from=0.0),
    )


def rst_cifar10(config: Config) -> Config:
    """WRN-28-10: 89.69% clean, 59.53% AutoAttack, TRADES' ball.

    Batches are theirs, 128 and 128 images. Their epoch is 196 of them, in which each labelled image comes half a
    time on average; our loaders take all labelled images once, 390 batches. So 100 epochs here are their 200 (a number
    that is recalled, not read) but for 200 of 39,200 steps.
    """
    return ball(100)(config)
