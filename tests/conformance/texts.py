"""What stands before each table of the report."""

HEAD = """\
# Conformance

What samplers and likelihoods do, measured against truths from outside this project: closed forms,
scipy, diffusers. Written by

    python scripts/conformance.py --out=DIR

(some minutes on 2 CPU cores; `--only=orders,laws,likelihood,parity` measures a part; parity needs
the extra `[parity]`). The tests assert the same claims on smaller ranges.

"holds" is a claim of this package. "deviates" is a published form that falls short of the order it
claims, kept under `form="published"` for comparison; no default uses it. In short:

- DPM-Solver++ 3M as published and as diffusers writes it is of second order: a factor of 2 is
  missing from its last term. The default, `form="exact"`, is of third.
- Multistep methods of order 3 that open with a step of first order end one order short or more,
  unless the denoiser is flat where they start. The default opens with a single step.
- SDE-DPM-Solver++ 3M has a wrong sign in diffusers, which makes it first order. The exact form's
  variance is of second order, as that of 2M: noise allows no more.

![Errors against numbers of steps](conformance.png)
"""

ORDERS = """\
The probability-flow ODE of a mixture of three Gaussians in two dimensions (16 starts, float64),
from log(alpha / sigma) = -2.3 to 1.5 in equal strides of it, on continuous VP. The reference is
scipy's DOP853 at a tolerance of 1e-13 on a denoiser written in numpy. Local slopes are between
each two numbers of steps; the fitted one is over all. A row holds if the fitted and the last local
slope reach the theory less 0.15. UniPC-p is of order p + 1 with its corrector and of order p
(UniP-p) without."""

PUBLISHED = """\
The same with `form="published"`: the formulas as the papers and diffusers write them, and the
order that they claim.

With h the step of lambda = log(alpha / sigma), every one of these solvers is x_s = (sigma_s /
sigma_t) x_t + sigma_s ∫ e^lambda x_0-hat dlambda with a polynomial for x_0-hat.

- **DPM-Solver++ 2M, 2S, UniP-2 and UniPC-1 replace 1 - (1 - e^-h) / h by h / 2 or (1 - e^-h) / 2**
  as the weight of the first divided difference. The two differ by O(h²) beside a term of O(h), so
  the order stays and only the constant changes.
- **DPM-Solver++ 3M lacks a factor of 2.** The Taylor term is x_0'' (lambda - lambda_t)² / 2 and
  the second divided difference D2 is x_0'' / 2, so the coefficient of D2 is -2 alpha_s ((e^-h - 1
  + h) / h² - 1/2); published, it is half of that. Half of an O(h³) term a step remains: second
  order.
- **UniP-3 and UniPC-3 open with a step of first order**, whose error of O(h²) (O(h³) corrected) is
  made once and never shrinks faster: they end at 2 and 3. On this problem the start is nearly
  flat, so only UniP-3 shows it yet; see the next table."""

TRAP = """\
The same mixture from three starts. At -4.6 the denoiser still answers the data's mean and a poor
first step costs nothing; from -2 or -1 it does (UniPC-3 corrects its own, and loses an order from
-1 alone). "3M exact" opens with a single step of second order (one more network call), "UniPC-3
exact" with one of third (two more); without the opening, exact weights end at second order too."""

PATHS = """\
In y = x / alpha and rho = sigma / alpha the ODE is dy / drho = eps-hat on every Gaussian path: at
equal levels all paths give the same y to 1e-15. Here strides are equal in t (VE and EDM: in
rho^(1/7)), so they are uneven in lambda and differ from path to path."""

BIAS = """\
On Gaussian data (mean 0.6, variance 0.05) a sampler with the exact denoiser is linear in x and its
noise, so the law of its result is known without a draw. Started from q(x_t) itself, the table
shows how far the variance ends from q's; every sampler keeps the mean.

- **SDE-DPM-Solver++ 3M is of second order, not third.** Along the reverse SDE the
  estimate x_0-hat is a martingale: its future is not a smooth function of its past, and a step's
  missing ∫ (x_0-hat - polynomial) is correlated with that step's own noise at O(h²). The
  difference of the last two estimates carries the same correlation one step late, so order 2 makes
  up for it in sum; higher differences know nothing more. From 256 to 512 and 1024 steps the exact
  form's slopes fall on: 2.2, 2.1.
- **The published SDE 3M is of first order.** With g = 2 h the coefficient of its last term should
  be -2 alpha_s ((e^-g - 1 + g) / g² - 1/2), which is of O(h) itself; diffusers has + 1/2 in place
  of - 1/2 (and no factor of 2), so that it tends to -alpha_s: an error of O(h²) a step.
- EDM's churn is the forward process itself and leaves q as it is: the order is Heun's, where the
  churn is not clipped at sqrt(2) - 1 (S_churn / num_steps, so above 48 steps here)."""

DRAWS = """\
With real keys in float32, from noise at t = 1 to t = 0 in 25 equal strides on continuous VP,
against the sampler's own exact law (with 25 steps still far from the data's, as the first column
shows; the law of ancestral sampling is also that of the textbook's recursion to 1e-10). |z| must
stay below 4. Langevin: 60 updates at one level, against v / (1 - a / (4 v)) for a drift of a/2
score."""

ANCESTRAL = """\
Neither choice of the reverse variance is exact at finite T: on the linear schedule, for data of
variance 0.05, the samples' variance is 0.967 of the data's with fixed_small and 1.008 with
fixed_large. 100,000 draws, against the closed form."""

POINT = """\
x_0-hat and eps-hat are constant along the flow of a point mass, so every solver must stay on it:
on six paths, at every time of a rough grid that ends at sigma = 0."""

MIXTURE = """\
Ancestral sampling (fixed_small, 1000 steps of continuous VP), 100,000 draws of a mixture whose
modes are 10 standard deviations apart. Bounds: 4 standard errors; for a variance also the bias
that the sampler has on a Gaussian of that variance, which is known exactly."""

CORRECTED = """\
Reverse diffusion in 1000 steps from t = 1 to 0.1 with one Langevin correction a step (snr 0.03, no
final denoising), 100,000 draws, beside q(x_t) at t = 0.1. Bounds: 4 standard errors, and 0.002 of a
standard deviation or 0.004 of the variance for the bias of finitely many steps and snr²."""

LIKELIHOOD = """\
Gaussian data with the exact denoiser on the linear schedule (T = 1000; Gaussian decoder): bits a
dimension above the truth, within 0.01 up to 4 standard errors of the estimate. The chain with
fixed_large has a true gap of 0.000, 0.002 and 0.009; fixed_small's is about 0.8, the sum of its
steps' divergences."""

PARITY = """\
diffusers' own classes, run in float64, against the package in `form="published"` with the same
network, grid and noise: the largest difference over whole trajectories in units of the
trajectory's largest value, worst of all cases; at most 1e-10 in float64 and 1e-5 in float32."""
