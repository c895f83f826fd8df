"""The digits' 17 pixel values as a lattice, scored by the discrete bound.

Data: configs/digits.py's, unconditional.
Hardware: 2 CPU cores, 1,000 steps at 2.9 a second while they were shared.
Expected, from scripts/evaluate.py on the 360 held-out images: discrete VLB of 1.94 bits per pixel
  (standard error 0.011). A mixture of categorical pixels, by EM, reaches 2.20 there.
Command: python scripts/train.py --config=configs/digits_lattice.py --workdir=runs/lattice
"""

from ml_collections import ConfigDict

from configs import digits_likelihood


def get_config() -> ConfigDict:
    config = digits_likelihood.get_config()
    config.data.dequantise = False
    # Noise of a seventh of the gap between two values: the decoder then rarely rounds wrongly.
    config.diffusion.schedule_options.gamma_0 = -8.0
    return config
