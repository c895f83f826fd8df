"""Draw images from a trained model.

  python scripts/sample.py --workdir=runs/digits --num_samples=100 --out=samples.npz

--out=F.npz gets `samples` uint8 [N, H, W, C] and `labels` int32 [N] (-1 without classes), and a
grid F.png beside it; --out=F.png only the grid; a folder one PNG an image. What is not given comes
from the run's config.
"""

from absl import flags

from ddpm_jax import cli

flags.DEFINE_string("workdir", None, "the run to sample from")
flags.DEFINE_integer("num_samples", 100, "how many images")
flags.DEFINE_string("out", None, "F.npz, F.png, or a folder for PNG files")
flags.DEFINE_string(
    "sampler", None, "ddim, heun, dpm_solver_pp, ...: configs/default.py lists them"
)
flags.DEFINE_integer("num_steps", None, "steps of the sampler's grid")
flags.DEFINE_string("grid", None, "uniform, karras, log_snr_uniform, ...")
flags.DEFINE_integer("order", None, "of dpm_solver_pp and unipc: 1, 2 or 3")
flags.DEFINE_float("eta", None, "noise of ddim and euler_ancestral, 0 to 1")
flags.DEFINE_list("options", [], "other fields of config.sample, method=singlestep,threshold=0.99")
flags.DEFINE_float(
    "guidance_scale", None, "0 ignores label and conditions, 1 is unguided, above 1 guided"
)
flags.DEFINE_integer("seed", 0, "image k depends on (seed, k) alone", 0, 2**32 - 1)
flags.DEFINE_list("labels", [], "classes, cycled; without them image k is of class k mod classes")
flags.DEFINE_multi_string(
    "condition",
    [],
    "name=value of config.model.conditions, once for each; several values, shape=circle,cross, are "
    "cycled; an image is a PNG file",
)
flags.DEFINE_integer("batch_size", None, "images of one call of the network")
flags.DEFINE_integer("step", None, "of the checkpoint; the latest by default")
flags.DEFINE_bool("raw_params", False, "the parameters instead of their moving average")
flags.declare_key_flag("compile_cache")


def main() -> None:
    cli.use_compile_cache()
    from ddpm_jax.commands import sample

    f = flags.FLAGS
    sample.to_files(
        f.workdir,
        f.out,
        num_samples=f.num_samples,
        labels=f.labels,
        conditions=f.condition,
        seed=f.seed,
        step=f.step,
        raw_params=f.raw_params,
        options=f.options,
        sampler=f.sampler,
        num_steps=f.num_steps,
        grid=f.grid,
        order=f.order,
        eta=f.eta,
        guidance_scale=f.guidance_scale,
        batch_size=f.batch_size,
    )


if __name__ == "__main__":
    cli.run(main)
