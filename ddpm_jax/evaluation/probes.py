"""What a linear classifier reads from features: how good a representation is."""

from typing import NamedTuple

import numpy as np

from ddpm_jax.evaluation import checks


class Share(NamedTuple):
    """A share of `num` examples."""

    value: float
    num: int


def accuracy(
    train: np.ndarray,
    train_labels: np.ndarray,
    test: np.ndarray,
    test_labels: np.ndarray,
    *,
    strength: float = 1.0,
) -> Share:
    """The share of test examples that multinomial logistic regression reads right.

    Features are centred and scaled by the training features' deviation; examples whose label is
    below 0 have none and are left out.

    Args:
      train, test: features [N, D] and [M, D].
      train_labels, test_labels: int [N] and [M].
      strength: of what is fitted against its penalty, the squared weights; sklearn's C.

    Raises:
      ValueError: for features of different widths, labels of another number, or fewer than two
        classes to be fitted to.

    Source: Alain & Bengio 2016; as CLIP is evaluated, Radford et al. 2021, section 3.2.
    """
    from sklearn.linear_model import LogisticRegression

    train, test = checks.features(train, "train"), checks.features(test, "test")
    checks.same_width(train, test, "train and test")
    labels, wanted = np.asarray(train_labels), np.asarray(test_labels)
    if labels.shape != (len(train),) or wanted.shape != (len(test),):
        raise ValueError(
            f"need {len(train)} and {len(test)} labels, got shapes {labels.shape}, {wanted.shape}"
        )
    train, labels = train[labels >= 0], labels[labels >= 0]
    test, wanted = test[wanted >= 0], wanted[wanted >= 0]
    if len(np.unique(labels)) < 2 or not len(wanted):
        raise ValueError("need labels of at least two classes to fit to, and one to read")
    mean, std = train.mean(axis=0), train.std(axis=0)
    std = np.where(std > 1e-6 * (std.max() or 1.0), std, 1.0)  # of what is constant nothing is made
    fitted = LogisticRegression(C=strength, max_iter=1000)
    fitted.fit((train - mean) / std, labels)
    right = fitted.predict((test - mean) / std) == wanted
    return Share(float(right.mean()), len(wanted))
