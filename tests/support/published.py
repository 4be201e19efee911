"""The tables of the ISEAT paper, row by row: what each publishes, and which command trains it with which numbers.

Numbers are means as printed, in the order of the columns, without standard deviations and cells left blank.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Setting:
    """What section 6 says of a row: network, epochs, λ, γ and the first learning rate."""

    arch: str
    epochs: int
    lam: float
    gamma: float
    lr: float = 0.1


@dataclass(frozen=True)
class PublishedRow:
    """One row; ``command`` is what ``fastiseat train`` takes for it, None where the method is not offered."""

    table: int
    label: str
    numbers: tuple[str, ...]
    command: str | None = None
    setting: Setting | None = None


def row(table: int, label: str, numbers: str, command: str | None = None, *setting) -> PublishedRow:
    return PublishedRow(table, label, tuple(numbers.split()), command, Setting(*setting) if setting else None)


C10, C100, SVHN, TIN = (f"--dataset {name}" for name in ("cifar10", "cifar100", "svhn", "tinyimagenet"))
WRN, PRN = "wrn-34-10", "prn18"
STRONG = "--augment idbh-cifar10-strong"
EXTRA = "--extra ti_500K_pseudo_labeled.pickle"
ABLATION = f"{C10} --fine-tune ablation --init at.safetensors"
TUNED = (WRN, 40, 0.1, 0.007, 0.01)

ROWS = [
    row(1, "AT", "51.78 0.467 1.527 -0.010 12.38 12.14", f"{C10} --arch prn18 --method at", PRN, 200, 0, 0),
    row(
        1, "AWP", "54.68 0.351 1.120 -0.022 5.52 19.74", f"{C10} --arch prn18 --method at-awp", PRN, 200, 0, 0.007
    ),
    row(
        1,
        "RST",
        "57.68 0.443 1.378 -0.011 9.96 20.87",
        f"{C10} --arch prn18 --method rst {EXTRA}",
        *(PRN, 100, 0, 0),
    ),
    row(
        1,
        "Eq. (7)",
        "55.95 0.196 0.633 -0.047 0.14 12.00",
        f"{C10} --arch prn18 --fine-tune eq7 --init at.safetensors",
        *(PRN, 10, 1.0, 0, 0.01),
    ),
    row(2, "AT", "85.90 53.42", f"{C10} --method at", WRN, 200, 0, 0),
    row(2, "AT-AWP", "85.57 54.04", f"{C10} --method at-awp", WRN, 200, 0, 0.007),
    row(2, "TRADES", "85.72 53.40", f"{C10} --method trades", WRN, 76, 0, 0),
    row(2, "InfoAT", "85.62 52.86"),
    row(2, "GAIRAT", "86.30 40.30"),
    row(2, "FAT", "87.97 47.48"),
    row(2, "RWP", "86.86 54.61"),
    row(2, "MART", "84.17 51.10", f"{C10} --method mart", WRN, 90, 0, 0),
    row(2, "MART-AWP", "84.43 54.23", f"{C10} --method mart-awp", WRN, 90, 0, 0.005),
    row(2, "LAS-AT", "86.23 53.58"),
    row(2, "LAS-AWP", "87.74 55.52"),
    row(2, "ISEAT (ours)", "86.02 56.54", C10, WRN, 200, 0.1, 0.007),
    row(2, "ISEAT (ours)+SWA", "85.95 57.09"),
    row(2, "IDBH+AT", "87.03 54.16", f"{C10} {STRONG} --method at", WRN, 200, 0, 0),
    row(2, "IDBH+ISEAT (ours)", "88.50 59.32", f"{C10} {STRONG}", WRN, 400, 0.1, 0.005),
    row(2, "RST", "89.69 59.53", f"{C10} {EXTRA} --method rst", "wrn-28-10", 100, 0, 0),
    row(2, "RST+MART", "87.50 56.29", f"{C10} {EXTRA} --method mart", "wrn-28-10", 90, 0, 0),
    row(2, "RST+GAIRAT", "89.36 59.64"),
    row(2, "RST+AWP", "88.25 60.05", f"{C10} {EXTRA} --method rst --awp-gamma 0.005", "wrn-28-10", 100, 0, 0.005),
    row(2, "RST+RWP", "88.87 60.36"),
    row(2, "ISEAT (ours)", "90.59 61.55", f"{C10} {EXTRA}", "wrn-28-10", 200, 0.01, 0.005),
    row(2, "IDBH+ISEAT (ours)", "87.91 58.55", f"{C10} {STRONG} --arch wrn-28-10", "wrn-28-10", 400, 0.1, 0.005),
    row(3, "CIFAR100 AT", "56.15 25.12", f"{C100} --method at", PRN, 200, 0, 0),
    row(3, "CIFAR100 ISEAT (ours)", "53.19 28.17", C100, PRN, 200, 0.1, 0.005),
    row(3, "SVHN AT", "90.55 47.48", f"{SVHN} --method at", PRN, 200, 0, 0, 0.01),
    row(3, "SVHN ISEAT (ours)", "91.08 54.04", SVHN, PRN, 200, 0.1, 0.009, 0.01),
    row(4, "AT", "46.39 46.69 -0.30 18.17 12.27 5.90", f"{TIN} --method at", PRN, 200, 0, 0),
    row(4, "AT-SWA", "49.47 47.78 1.69 19.96 12.97 6.99"),
    row(4, "Consistency", "46.50 45.61 0.89 15.09 13.56 1.53", f"{TIN} --method consistency", PRN, 200, 0, 0),
    row(4, "SRC+FL", "46.75 17.01"),
    row(4, "LAS-AWP", "45.26 18.42"),
    row(4, "ISEAT (ours)", "48.26 48.71 -0.45 20.55 20.17 0.39", TIN, PRN, 200, 0.01, 0.005),
    row(4, "ISEAT-SWA (ours)", "47.58 49.18 -1.60 20.90 20.68 0.22"),
    row(5, "TSOVR", "81.40 49.80"),
    row(5, "SRC", "80.70 50.35"),
    row(5, "SGLR-AT", "82.90 51.20"),
    row(5, "ISEAT (ours)", "82.37 51.76", f"{C10} --arch prn18", PRN, 200, 0.1, 0.007),
    row(5, "SLORE-MART", "85.17 59.10", f"{C10} --method slore-mart", WRN, 90, 0, 0),
    row(5, "ISEAT (ours)", "85.62 60.95", C10, WRN, 200, 0.1, 0.007),
    row(6, "AT", "85.90 53.42 5.20 0.322", f"{C10} --method at", WRN, 200, 0, 0),
    *(
        row(6, label, numbers, f"{C10} --lam {numbers.split()[0]}", WRN, 200, float(numbers.split()[0]), 0.007)
        for label, numbers in (
            ("", "0.005 86.43 55.17 0.98 0.293"),
            ("ISEAT", "0.01 86.68 55.44 0.92 0.278"),
            ("", "0.05 85.24 55.30 0.72 0.285"),
            ("", "0.1 86.02 56.54 0.36 0.200"),
        )
    ),
    row(7, "AT", "85.90 53.42 0.253", f"{C10} --method at", WRN, 200, 0, 0),
    row(7, "+ input loss smoothing", "84.10 54.50 0.268", f"{ABLATION} --method lsi", WRN, 40, 0.1, 0, 0.01),
    row(7, "+ weight loss smoothing", "86.04 55.26 0.277", f"{ABLATION} --method at-awp", WRN, 40, 0, 0.007, 0.01),
    row(7, "+ both (ISEAT)", "85.63 56.46 0.298", ABLATION, *TUNED),
    row(8, "AT", "85.90 53.42", f"{C10} --method at", WRN, 200, 0, 0),
    row(
        8,
        "KL-divergence Unweighted",
        "85.07 56.08",
        f"{ABLATION} --distance kl --weighting uniform",
        *TUNED,
    ),
    row(8, "Squared ℓ_2 -norm Unweighted", "85.15 56.20", f"{ABLATION} --weighting uniform", *TUNED),
    row(8, "Squared ℓ_2 -norm Top-10%", "85.53 56.36", f"{ABLATION} --weighting top", *TUNED),
    row(8, "Squared ℓ_2 -norm Linear", "85.63 56.46", ABLATION, *TUNED),
    row(9, "AT", "85.90 53.42", f"{C10} --method at", WRN, 200, 0, 0),
    row(9, "+ LSI", "85.49 55.38", f"{ABLATION} --smoothness lsi", *TUNED),
    row(9, "+ TRADES-AWP", "85.52 55.82", f"{ABLATION} --smoothness trades-awp", *TUNED),
    row(9, "+ LSIW (ours)", "85.63 56.46", ABLATION, *TUNED),
]

ELSEWHERE = {
    "at-rice": "82.92 53.49 84.93 45.59",
    "awp-wu": "85.36 53.97 81.18 55.39 81.65 54.30",
    "trades": "84.92 53.08",
    "trades-awp": "85.36 56.17",
    "hat": "84.90 49.08 52.60 18.14",
}
"""By method, numbers of other papers and of their codes."""
