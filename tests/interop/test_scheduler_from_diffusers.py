"""Schedulers of diffusers: the same calls and the same end as stepping with diffusers itself."""

import functools
import itertools
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from conformance import parity  # noqa: E402

from ddpm_jax.build.sampling import SAMPLERS  # noqa: E402
from ddpm_jax.diffusion import prediction  # noqa: E402
from ddpm_jax.interop import scheduler, scheduler_config  # noqa: E402
from ddpm_jax.interop.scheduler_config import (  # noqa: E402
    ANCESTRAL,
    DDIM,
    DDPM,
    DPM,
    EULER,
    HEUN,
    PNDM,
    UNIPC,
)

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
# What a class needs beside that to be supported.
NEEDS = {PNDM: {"skip_prk_steps": True}, DDIM: {"clip_sample": False}, DDPM: {"clip_sample": False}}
SPACINGS = ("leading", "trailing", "linspace")
NOISE = {DDPM: "scan", ANCESTRAL: "scan"}


def case(name, num_steps=10, strength=1.0, **options):
    return name, num_steps, strength, options


def cases():
    for name, spacing, num_steps in itertools.product(scheduler.SAMPLERS, SPACINGS, (10, 50)):
        yield case(name, num_steps, timestep_spacing=spacing, steps_offset=1)
        yield case(name, num_steps, timestep_spacing=spacing, prediction_type="v_prediction")
    # Where the strides of a list are not T // N.
    for name, spacing, num_steps in itertools.product((DDIM, PNDM), SPACINGS, (7, 30)):
        yield case(name, num_steps, timestep_spacing=spacing, steps_offset=1)
    for name, final in itertools.product((DDIM, PNDM), (True, False)):
        for spacing in SPACINGS:
            yield case(name, timestep_spacing=spacing, set_alpha_to_one=final)
    for name, num_steps in itertools.product((PNDM, DPM, UNIPC, HEUN), (2, 3)):
        yield case(name, num_steps, timestep_spacing="trailing")
    for name in scheduler.SAMPLERS:
        yield case(name, 1, timestep_spacing="trailing")
        yield case(name, beta_schedule="squaredcos_cap_v2", prediction_type="v_prediction")
        yield case(name, beta_schedule="linear")
        yield case(name, trained_betas=np.linspace(1e-4, 0.015, 1000).tolist())
    for name, strength in itertools.product(scheduler.SAMPLERS, (0.8, 0.3, 0.98, 0.04)):
        yield case(name, 50, strength, timestep_spacing="leading", steps_offset=1)
    for name in (EULER, ANCESTRAL, HEUN):
        yield case(name, 11, 0.9, timestep_spacing="linspace", beta_schedule="linear")
    yield case(PNDM, 10, 0.5, timestep_spacing="linspace", prediction_type="v_prediction")
    yield case(PNDM, 10, 0.9, timestep_spacing="leading", prediction_type="v_prediction")
    for name, num_steps in itertools.product((EULER, HEUN), (10, 50)):
        for field in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"):
            for spacing in ("leading", "linspace"):
                yield case(name, num_steps, timestep_spacing=spacing, **{field: True})
    for name, num_steps in itertools.product((DPM, UNIPC), (10, 50)):
        yield case(name, num_steps, use_karras_sigmas=True)
        yield case(name, num_steps, 0.5, use_karras_sigmas=True)
    yield case(DPM, 50, use_lu_lambdas=True)
    yield case(DPM, 20, use_karras_sigmas=True, beta_schedule="squaredcos_cap_v2")
    for spacing in SPACINGS:
        for name in (EULER, DPM, UNIPC):
            yield case(name, timestep_spacing=spacing, final_sigmas_type="sigma_min")
        yield case(DPM, lambda_min_clipped=-1.5, timestep_spacing=spacing)
    for name, options in (
        (EULER, {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}),
        (DPM, {"use_karras_sigmas": True, "final_sigmas_type": "sigma_min"}),
        (EULER, {"use_karras_sigmas": True, "sigma_min": 0.1, "sigma_max": 9.0}),
        (UNIPC, {"use_karras_sigmas": True, "sigma_min": 0.1, "sigma_max": 9.0}),
        (EULER, {"interpolation_type": "log_linear"}),
        (EULER, {"prediction_type": "sample"}),
        (DDIM, {"prediction_type": "sample"}),
        (DPM, {"prediction_type": "sample"}),
        (UNIPC, {"prediction_type": "sample"}),
        (HEUN, {"clip_sample": True}),
        (DDPM, {"clip_sample": True}),
        (DDPM, {"variance_type": "fixed_large"}),
        (DDPM, {"variance_type": "fixed_small_log"}),
        (DDPM, {"beta_schedule": "sigmoid", "beta_start": 1e-4, "beta_end": 0.02}),
    ):
        yield case(name, **options)
    for order, num_steps, final in itertools.product((1, 2, 3), (10, 20), (True, False)):
        yield case(DPM, num_steps, solver_order=order, lower_order_final=final)
        if final:
            yield case(UNIPC, num_steps, solver_order=order)
            yield case(UNIPC, num_steps, solver_order=order, final_sigmas_type="sigma_min")
        smallest = {"final_sigmas_type": "sigma_min", "lower_order_final": final}
        yield case(DPM, num_steps, solver_order=order, **smallest)
    yield case(UNIPC, solver_type="bh1", final_sigmas_type="sigma_min")
    yield case(UNIPC, lower_order_final=False, final_sigmas_type="sigma_min")
    yield case(DPM, 20, euler_at_final=True, final_sigmas_type="sigma_min")
    for heun, order in itertools.product(("midpoint", "heun"), (1, 2)):
        for algorithm in ("dpmsolver++", "sde-dpmsolver++"):
            for num_steps in (10, 20):
                solver = {"solver_type": heun, "solver_order": order, "algorithm_type": algorithm}
                yield case(DPM, num_steps, **solver)
    yield case(DPM, algorithm_type="sde-dpmsolver++", solver_order=3)
    for name in (DDIM, DDPM, EULER, ANCESTRAL, DPM, UNIPC):
        zero = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
        yield case(name, timestep_spacing="trailing", **zero)
        yield case(name, timestep_spacing="leading", **zero)


def named(one):
    name, num_steps, strength, options = one
    said = [f"{field}={value}" for field, value in options.items() if field != "trained_betas"]
    return " ".join([name.removesuffix("Scheduler"), str(num_steps), f"{strength:g}", *said])


def read(tmp_path, name, options):
    """Ours, and a function that makes theirs."""
    fields = {**SD, **NEEDS.get(name, {}), **options}
    build = functools.partial(getattr(diffusers, name), **fields)
    build().save_pretrained(tmp_path)
    return scheduler.read(tmp_path), build


def network_of(ours):
    form = parity.FORMS[ours.config["prediction_type"]]
    return parity._network(ours.schedule, form, False, parity.clock)


def start(dtype, seed):
    return jax.random.normal(jax.random.key(seed), (4, 3), dtype)


def our_run(ours, num_steps, strength, dtype):
    """x_0, the times that the network was shown, and the noise of each step."""
    network, asked = network_of(ours), []
    with jax.enable_x64(dtype == np.float64):
        steps = ours.steps(num_steps, strength)

        def apply(variables, xt, time, conditions):
            # In two numbers, added by Python: jax in a callback's thread may know float32 alone.
            parts = jnp.floor(time[0]), time[0] - jnp.floor(time[0])
            jax.debug.callback(lambda a, b: asked.append(float(a) + float(b)), *parts, ordered=True)
            return network(xt, time)

        denoise = prediction.denoiser(apply, None, steps.schedule, prediction=ours.prediction)
        noise, x0 = start(dtype, 0), jnp.tanh(start(dtype, 2))
        x = steps.start_std * noise
        if strength < 1:
            alpha, sigma = (float(v) for v in np.ravel(steps.schedule.values(steps.times[:1])))
            x = alpha * x0 + sigma * noise
        out = steps.sampler(denoise, steps.schedule, steps.times, jax.random.key(1), x)
        out = np.asarray(out, np.float64)
        jax.effects_barrier()
        sde = ours.config.get("algorithm_type") == "sde-dpmsolver++"
        noisy = "evaluations" if sde else NOISE.get(ours.name)
        return out, np.array(asked), parity.noise_of(len(steps.times) - 1, noisy, dtype)


def their_run(build, network, num_steps, strength, noise, dtype):
    """The loop of diffusers' pipelines: x_0, and the times that the network was shown."""
    peer = build()
    peer.set_timesteps(num_steps)
    skipped = num_steps - int(num_steps * strength)
    times = peer.timesteps[skipped * peer.order :]
    if skipped and hasattr(peer, "set_begin_index"):
        peer.set_begin_index(skipped * peer.order)

    def tensor(x):
        return torch.tensor(np.asarray(x, dtype)[..., None])

    x, x0 = (tensor(one) for one in (start(dtype, 0), jnp.tanh(start(dtype, 2))))
    x = peer.add_noise(x0, x, times[:1]) if strength < 1 else x * peer.init_noise_sigma
    with parity.lend(np.concatenate([noise, np.zeros((2, 4, 3))]).astype(dtype)):
        for t in times:
            shown = peer.scale_model_input(x, t).numpy()[..., 0]
            time = jnp.full(4, float(t), dtype)
            out = np.array(network(jnp.asarray(shown, dtype), time))
            x = peer.step(torch.tensor(out[..., None]), t, x).prev_sample
    return x.numpy()[..., 0], times.numpy().astype(float)


def apart(ours, build, num_steps, strength, dtype):
    """How far the two ends are apart, in units of theirs, and the times of both."""
    out, asked, noise = our_run(ours, num_steps, strength, dtype)
    with jax.enable_x64(dtype == np.float64):
        theirs, times = their_run(build, network_of(ours), num_steps, strength, noise, dtype)
    return np.abs(out - theirs).max() / np.abs(theirs).max(), asked, times


CASES = list(cases())


@pytest.mark.wide(40)
@pytest.mark.parametrize("one", CASES, ids=named)
def test_the_end_and_the_calls_are_those_of_diffusers(one, tmp_path):
    name, num_steps, strength, options = one
    ours, build = read(tmp_path, name, options)
    assert ours.sampler in SAMPLERS
    with parity.in_float64():
        found, asked, times = apart(ours, build, num_steps, strength, np.float64)
    assert found < 1e-9
    # A last call that moves nothing is left out.
    assert len(times) - len(asked) in (0, 1)
    np.testing.assert_allclose(asked, times[: len(asked)], rtol=0, atol=1e-6)


IN_FLOAT32 = [
    case(name, num_steps, timestep_spacing=spacing, steps_offset=1)
    for name in scheduler.SAMPLERS
    for spacing in SPACINGS
    for num_steps in (10, 50)
]


@pytest.mark.wide(12)
@pytest.mark.parametrize("one", IN_FLOAT32, ids=named)
def test_in_float32_it_follows_diffusers_as_it_is(one, tmp_path):
    name, num_steps, strength, options = one
    ours, build = read(tmp_path, name, options)
    found, asked, times = apart(ours, build, num_steps, strength, np.float32)
    assert found < 1e-5
    np.testing.assert_array_equal(asked, times[: len(asked)])
    assert len(times) - len(asked) in (0, 1)


# As published, the fields that other classes left behind included.
PUBLISHED = {
    "Stable Diffusion 1.5": (
        {
            "_class_name": PNDM,
            "_diffusers_version": "0.6.0",
            **SD,
            "num_train_timesteps": 1000,
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "steps_offset": 1,
            "trained_betas": None,
            "clip_sample": False,
        },
        ("eps", "pndm"),
        [981, 961, 941],
    ),
    "Stable Diffusion 2.1": (
        {
            "_class_name": DDIM,
            "_diffusers_version": "0.8.0",
            **SD,
            "clip_sample": False,
            "num_train_timesteps": 1000,
            "prediction_type": "v_prediction",
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "steps_offset": 1,
            "trained_betas": None,
        },
        ("v", "ddim"),
        [981, 961, 941],
    ),
    "Stable Diffusion XL": (
        {
            "_class_name": EULER,
            "_diffusers_version": "0.19.0.dev0",
            **SD,
            "clip_sample": False,
            "interpolation_type": "linear",
            "num_train_timesteps": 1000,
            "prediction_type": "epsilon",
            "sample_max_value": 1.0,
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "steps_offset": 1,
            "timestep_spacing": "leading",
            "trained_betas": None,
            "use_karras_sigmas": False,
        },
        ("eps", "euler"),
        [981, 961, 941],
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_a_sampler_of_ours_on_the_chain_itself(name, tmp_path):
    fields, (form, sampler), first = PUBLISHED[name]
    (tmp_path / scheduler_config.CONFIG).write_text(json.dumps(fields))
    ours = scheduler.read(tmp_path)
    assert (ours.prediction, ours.sampler) == (form, sampler)
    steps = ours.steps(50)
    assert steps.schedule is ours.schedule
    assert getattr(steps.sampler, "func", steps.sampler) is SAMPLERS[sampler]
    assert steps.start_std == 1
    np.testing.assert_array_equal((1000 * steps.times[:3]).round() - 1, first)
    # Down to index 0 where alpha_bar does not end at 1, and to t = 0 otherwise.
    assert steps.times[-1] == (0 if sampler == "euler" else 1 / 1000)


REFUSED = {
    "class": ({"_class_name": "LCMScheduler"}, '_class_name is "LCMScheduler"; supported: PNDM'),
    "prk": ({"_class_name": PNDM}, "skip_prk_steps is false; supported: true"),
    "pndm sample": (
        {"_class_name": PNDM, "skip_prk_steps": True, "prediction_type": "sample"},
        'prediction_type is "sample"; supported: "epsilon" or "v_prediction"',
    ),
    "ddim clips": ({"_class_name": DDIM}, "clip_sample is true; supported: false"),
    "range": (
        {"_class_name": DDPM, "clip_sample_range": 2.0},
        "clip_sample_range is 2.0; supported: 1",
    ),
    "thresholding": ({"_class_name": DPM, "thresholding": True}, "thresholding is true"),
    "betas": ({"_class_name": EULER, "beta_schedule": "laplace"}, 'beta_schedule is "laplace"'),
    "order of betas": (
        {"_class_name": EULER, "beta_start": 0.5, "beta_end": 0.1},
        "beta_end is 0.1; supported: beta_start, 0.5, or more",
    ),
    "number of betas": (
        {"_class_name": EULER, "trained_betas": [0.1, 0.2]},
        "num_train_timesteps is 1000; supported: 2, as many as trained_betas",
    ),
    "spacing": ({"_class_name": EULER, "timestep_spacing": "even"}, 'timestep_spacing is "even"'),
    "learned": (
        {"_class_name": DDPM, "variance_type": "learned_range"},
        'variance_type is "learned_range"',
    ),
    "noise at the end": (
        {"_class_name": DDPM, "variance_type": "fixed_large", "timestep_spacing": "trailing"},
        'variance_type is "fixed_large"; supported: fixed_small where',
    ),
    "two spacings": (
        {"_class_name": EULER, "use_karras_sigmas": True, "use_beta_sigmas": True},
        "use_beta_sigmas is true; supported: false beside use_karras_sigmas",
    ),
    "cut times": (
        {"_class_name": DPM, "use_exponential_sigmas": True},
        "use_exponential_sigmas is true; supported: false for this class",
    ),
    "level": (
        {"_class_name": EULER, "sigma_max": 700.0},
        "sigma_max is 700.0; supported: null or a level of the betas",
    ),
    "algorithm": (
        {"_class_name": DPM, "algorithm_type": "dpmsolver"},
        'algorithm_type is "dpmsolver"',
    ),
    "heun 3": (
        {"_class_name": DPM, "solver_order": 3, "solver_type": "heun"},
        'solver_type is "heun"; supported: midpoint beside solver_order 3',
    ),
    "end of order 3": (
        {
            "_class_name": DPM,
            "solver_order": 3,
            "use_karras_sigmas": True,
            "final_sigmas_type": "sigma_min",
        },
        "use_karras_sigmas is true; supported: false beside solver_order 3",
    ),
    "end of unipc": (
        {"_class_name": UNIPC, "use_karras_sigmas": True, "final_sigmas_type": "sigma_min"},
        'final_sigmas_type is "sigma_min"; supported: zero',
    ),
    "flow": ({"_class_name": UNIPC, "use_flow_sigmas": True}, "use_flow_sigmas is true"),
    "solver_p": ({"_class_name": UNIPC, "solver_p": {}}, "solver_p is {}; supported: null"),
    "corrector": (
        {"_class_name": UNIPC, "disable_corrector": [0]},
        r"disable_corrector is \[0\]; supported: an empty list",
    ),
    "unknown": (
        {"_class_name": UNIPC, "solver_ordre": 2},
        "solver_ordre is 2; supported: the fields of UniPC",
    ),
    "number for a switch": (
        {"_class_name": EULER, "use_karras_sigmas": 1},
        "use_karras_sigmas is 1; supported: false or true or null",
    ),
    "infinite": ({"_class_name": EULER, "beta_end": math.inf}, "Infinity is no JSON"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused_by_name_and_value(name, tmp_path):
    fields, words = REFUSED[name]
    (tmp_path / scheduler_config.CONFIG).write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=words):
        scheduler.read(tmp_path)


def test_a_folder_without_a_scheduler_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no scheduler_config.json; give the folder of"):
        scheduler.read(tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "num_steps", "strength", "words"),
    [
        (EULER, {}, 0, 1.0, "need 1 <= num_steps <= 1000 of Euler.*num_steps=0"),
        (DDIM, {}, 1001, 1.0, "num_steps=1001"),
        (EULER, {}, 10, 0.0, "0 < strength <= 1, got strength=0.0"),
        (EULER, {}, 10, 0.05, "strength=0.05 of 10 steps leaves none"),
        (
            DDIM,
            {"steps_offset": 1},
            1000,
            1.0,
            "asks the network at 1 to 1000, outside of 0",
        ),
        # Of these numbers diffusers' own list is one too long.
        (DDIM, {"timestep_spacing": "trailing"}, 61, 1.0, "at -1 to 999.*another number"),
        (DDIM, {"set_alpha_to_one": False}, 1, 1.0, "ends where it begins with 1 of 1"),
        # Its list ends with the same index twice, and the second step there goes back to it.
        (PNDM, {"steps_offset": 1}, 2, 0.8, "ends where it begins with 1 of 2"),
        (UNIPC, {"timestep_spacing": "linspace"}, 1000, 1.0, "two steps of one noise level"),
    ],
)
def test_numbers_of_steps_that_cannot_be_are_refused(
    name, options, num_steps, strength, words, tmp_path
):
    ours, _ = read(tmp_path, name, options)
    with pytest.raises(ValueError, match=words):
        ours.steps(num_steps, strength)


@pytest.mark.parametrize("name", scheduler.SAMPLERS)
@pytest.mark.wide(4)
def test_the_nodes_of_any_strength_are_those_of_get_timesteps(name, tmp_path):
    ours, build = read(tmp_path, name, {"steps_offset": 1, "timestep_spacing": "leading"})
    peer = build()
    peer.set_timesteps(50)
    for strength in (0.29, 0.58):
        # int(50 * 0.58) is 28, in theirs and here.
        left = 50 - int(50 * strength)
        times = peer.timesteps[left * peer.order :].numpy()
        if name == PNDM:
            # The call that takes the first step again is at no time of the grid.
            times = np.delete(times, 1)
        elif name == HEUN:
            times = times[::2]
        steps = ours.steps(50, strength)
        shown = steps.schedule.network_time(jnp.asarray(steps.times[:-1]))
        np.testing.assert_array_equal(shown, times)
