"""Do samples show their label, or collapse? Checks for small images.

Images here are [N, ...] on any one scale, floats or integers; they are compared as flat vectors of
pixels. At most a class of them is held in float64.
"""

import numpy as np

from ddpm_jax.evaluation import checks, manifold

SVM_IMAGES = 10_000  # it is cubic in them


def label_accuracy(
    train_images: np.ndarray, train_labels: np.ndarray, images: np.ndarray, labels: np.ndarray
) -> float:
    """The share of images that an SVM trained on the real ones gives their own label, in [0, 1].

    Args:
      train_images, train_labels: real data, [M, ...] in [-1, 1], or uint8 of 256 levels, and [M];
        at most 10,000 are taken, evenly spaced.
      images, labels: what is judged, [N, ...] alike and [N].
    """
    read = classes_read(train_images, train_labels, images)
    return float(np.mean(read == labels))


def classes_read(
    train_images: np.ndarray, train_labels: np.ndarray, images: np.ndarray
) -> np.ndarray:
    """The class that an SVM trained on the real images reads in each image, [N].

    Args:
      train_images, train_labels, images: as of `label_accuracy`.

    Raises:
      ValueError: for real images of fewer than two classes.
    """
    if len(np.unique(train_labels)) < 2:
        raise ValueError("the real images are of fewer than two classes: there are none to read")
    from sklearn.svm import SVC  # half a second of imports

    # gamma = 0.001 for 64 pixels of 0..16, scikit-learn's own choice for its digits, in our units;
    # a mean over pixels, so that larger images are not all equally far.
    classifier = SVC(kernel="rbf", gamma=0.064 * 64 / train_images[0].size)
    every = -(-len(train_images) // SVM_IMAGES)  # not the first ones, which may be of one class
    classifier.fit(_unit(train_images[::every]), train_labels[::every])
    blocks = checks.blocks(images.reshape(len(images), -1))
    return np.concatenate([classifier.predict(_unit(images[part])) for part in blocks])


def shares(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The share of labels [N] that are each of the classes [K], float64 [K]."""
    return np.array([np.mean(labels == one) for one in classes])


def spread_ratio(
    real_images: np.ndarray, real_labels: np.ndarray, images: np.ndarray, labels: np.ndarray
) -> float:
    """Within-class standard deviation of the samples' pixels over the real images' own.

    About 1 for samples as varied as the data, 0 where every class collapsed to one image.

    Raises:
      ValueError: if a class of the samples has no real images, or the real images of each class
        are all alike.
    """
    if missing := sorted(set(np.unique(labels)) - set(np.unique(real_labels))):
        raise ValueError(f"no real images of class {missing[0]}")
    classes = np.unique(labels)
    if not (real := _spread(real_images, real_labels, classes)):
        raise ValueError("the real images of each class are all alike: there is no spread to match")
    return _spread(images, labels, classes) / real


def recall(
    real_images: np.ndarray,
    real_labels: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray,
    neighbours: int = 3,
) -> float:
    """The share of real images that lie within the manifold of their class's samples, in [0, 1].

    That manifold is the union of balls around the samples, each out to its neighbours-th nearest
    sample of the class. Classes count equally. It grows with the number of samples: compare equal
    numbers alone.

    Args:
      real_images, real_labels: [M, ...] and [M].
      images, labels: the samples, [N, ...] and [N].
      neighbours: k, below the number of samples of each class.

    Raises:
      ValueError: if a class of the samples has no real images, or no more than k samples.

    Source: Kynkäänniemi et al. 2019, equations 1 and 2, class by class and of pixels.
    """
    shares = []
    for c in np.unique(labels):
        own, real = images[labels == c], real_images[real_labels == c]
        if not len(real) or len(own) <= neighbours:
            raise ValueError(
                f"class {c}: need real images and more than {neighbours} samples, got {len(real)} "
                f"and {len(own)}"
            )
        shares.append(manifold.recall(_flat(own), _flat(real), neighbours))
    return float(np.mean(shares))


def _spread(images: np.ndarray, labels: np.ndarray, classes: np.ndarray) -> float:
    """The root of the within-class pixel variance, averaged over pixels and classes."""
    variances = [_flat(images[labels == c]).var(axis=0).mean() for c in classes]
    return float(np.sqrt(np.mean(variances)))


def _unit(images: np.ndarray) -> np.ndarray:
    """Flat images in [-1, 1]."""
    return _flat(images) / 127.5 - 1 if images.dtype == np.uint8 else _flat(images)


def _flat(images: np.ndarray) -> np.ndarray:
    return np.asarray(images, np.float64).reshape(len(images), -1)
