"""DDPM on LSUN 256x256, the experiments of Ho et al. (2020): 113,673,219 parameters.

Paper: Denoising Diffusion Probabilistic Models, appendix B. One category a run, named after a
colon: configs/lsun256.py:bedroom, :cat, or :church_outdoor, which is the default.
Data: TFDS lsun/CATEGORY, prepared once; TFDS's LSUN needs tensorflow_io besides TensorFlow:
  python scripts/prepare_data.py --dataset=lsun/church_outdoor --data_dir=DIR
Hardware: the paper's TPU v3-8 ran 2.2 steps/s: about 150 hours for church_outdoor.
Expected: FID 7.89 church, 6.36 bedroom, 19.75 cat (the paper's figures); not rerun here.
Command: python scripts/train.py --config=configs/lsun256.py:church_outdoor \
  --workdir=runs/church --config.data.data_dir=DIR
"""

from ml_collections import ConfigDict

from configs import celebahq256

SPLITS = ("train", "validation")
# category -> steps, random flips, splits. The paper flips all but bedrooms; its code's comments say
# all but cats. TFDS has no validation images of cats, so the last 1,000 are held out.
CATEGORIES = {
    "church_outdoor": (1_200_000, True, SPLITS),
    "bedroom": (2_400_000, False, SPLITS),
    "cat": (1_800_000, True, ("train[:-1000]", "train[-1000:]")),
}


def get_config(category: str = "church_outdoor") -> ConfigDict:
    if category not in CATEGORIES:
        raise ValueError(f"category must be one of {', '.join(CATEGORIES)}, got {category!r}")
    config = celebahq256.get_config()
    config.train.num_steps, config.data.flip, splits = CATEGORIES[category]
    config.data.name = f"lsun/{category}"
    train, validation = splits
    config.data.options = {"train_split": train, "validation_split": validation}
    return config
