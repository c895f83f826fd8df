"""What stands before each table of the report."""

HEAD = """\
# Conformance

What samplers and likelihoods do, measured against truths from outside this project: closed forms,
scipy, diffusers. Written by

    python scripts/conformance.py --out=DIR

(some minutes on 2 CPU cores; `--only=orders,laws,likelihood,identities,guidance,parity` measures a
part; parity needs the extra `[parity]`). The tests assert the same claims on smaller ranges. The
digits' likelihood needs trained models: docs/results.md has the figures.

"holds" is a claim of this package. "deviates" is a published form that falls short of the order it
claims, kept under `form="published"` for comparison; no default uses it. "differs" is something
that diffusers does otherwise. A claim that fails says so, and the command ends with exit code 1.
In short:

- DPM-Solver++ 3M as published and as diffusers writes it is of second order: a factor of 2 is
  missing from its last term. The default, `form="exact"`, is of third.
- Multistep methods of order 3 that open with a step of first order end one order short or more,
  unless the denoiser is flat where they start. The default opens with a single step.
- SDE-DPM-Solver++ 3M has a wrong sign in diffusers, which makes it first order. The exact form's
  variance is of second order, as that of 2M: noise allows no more.
- diffusers' schedulers equal the published forms here to 1e-11 in all else that can be compared.
  What cannot, and where they depart from the paper, stands in the last table with figures: DDIM
  steps past its own list of times, DDPM ends in noise, zero SNR leads to a rising SNR or to NaN,
  UniPC divides by 0.

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
stay below 4. Langevin: 60 updates at one level t > 0, against v / (1 - a / (4 v)) for a drift of
a/2 score; its first column is that over q's own variance v."""

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
Each predictor in 1000 steps from t = 1 to 0.1 with one Langevin correction a step (snr 0.03, no
final denoising), 100,000 draws, beside q(x_t) at t = 0.1. Bounds: 4 standard errors, and 0.002 of a
standard deviation or 0.004 of the variance for the bias of finitely many steps and snr²."""

FLOW = """\
From noise at t = 1 to 0.7, 0.2 and 0.01, Gaussian data (mean 0.4, variance 0.3), float64: the
largest distance from the closed-form flow map at any of these times, at most 1e-6. Network calls:
of the example that needs most."""

LIKELIHOOD = """\
Gaussian data with the exact denoiser on the linear schedule (T = 1000; Gaussian decoder): bits a
dimension above the truth, within 0.01 up to 4 standard errors of the estimate. What is asked of
fixed_small is not 0 but its known gap, the sum of its steps' divergences."""

SUMS = """\
Total less prior, denoising and decoder, of the same examples, float32: the largest of all."""

TERMS = """\
The expectation of each term of the discrete bound, in bits, in float64 and without a draw, beside
its closed form in the textbook's symbols: prior SNR_T v / 2, divergences of posteriors, decoder.
They add up to the entropy of the data plus the sum over steps of KL(q(x_i-1 given x_i) ||
p(x_i-1 given x_i)), which is another derivation. The largest difference is that of any term or of
the sum."""

TRIPS = """\
(x_0, eps), numbers up to 3, through each form and every other one and back, at 401 log-SNRs from
-20 to 20 on a variance-preserving path, VE and flow, in float32: the largest errors. Where x_t says
little of one of the two its error is that of x_t over alpha or sigma, so the third column weighs by
them. The bound is 64 roundings. The posterior mean tells x_0 by a weight of 1e-4 and more, which
would lose 4 digits: it is measured in float64, at every step of linear, T = 1000."""

LOSSES = """\
Mean squared errors of one network in the units of each form, at every step of linear, T = 1000,
float64, against the factors of Salimans & Ho 2022, Karras et al. 2022 and Ho et al. 2020."""

WEIGHTINGS = """\
The loss of every form under a weighting, against the loss of x_0 times what the paper multiplies it
with; the worst of the seven forms and of 1000 steps. (The floor of 3e-7 that keeps weights finite
at sigma = 0 shows in the first step, as 2e-9.)"""

SYMMETRIES = """\
Samples of a mixture in 10 steps to t = 0, float32, a key for each of 8 images: what must not change
them, to 1e-5 (no more than roundings; the random bits are the same)."""

GUIDED = """\
Data of one number from two overlapping modes, half N(-1, 0.5) and half N(1, 0.5); y is the second.
100,000 samples of classifier-free guidance at scale w with the exact denoisers (continuous VP,
DPM-Solver++ 3M, 60 steps), beside p(x) p(y given x)^w scaled to a density, over 100 bins. At w = 1
the two are one, up to the draws (0.015). Above, this asks that they differ, by 0.15 or more: the
score that guidance follows at a noise level is that of q(x_t) p(y given x_t)^w, which is not the
noised tilted density. The samples go further out and are less varied. docs/guidance.md has the
figure."""

INPAINTING = """\
Pairs from two modes, half N((-0.3, -1), 0.1 I) and half N((0.3, 1), 0.1 I); the first entry is
known to be 0.25 and the second painted, with the exact unconditional denoiser, 100 steps of linear,
4000 draws. How often it falls into the upper mode, beside Bayes' rule; jumps of RePaint are of 10
steps. Posterior sampling takes for the deviation of x_0 the paper's 1, that of the known entry over
the data (0.44), or that within a mode (0.32). Its calls have a gradient each. Replacement must miss
by 20 standard errors, and the others must not miss by more; docs/guidance.md has the figure."""

TABLES = """\
The largest difference of betas and of alpha_bar, T = 1000, at most 1e-12 in float64; and what their
float32 is away from that."""

PARITY = """\
diffusers' own classes, run in float64 on their own tables, grids and noise levels (which must be
ours to 1e-9), with the same network and injected noise, 10 steps: the largest difference over whole
trajectories in units of the trajectory's largest value, worst of all cases; at most 1e-10 in
float64 and 1e-5 in float32. Ours is `form="published"`; only where theirs has solver_type="heun" it
is `form="exact"`, because that is exact order 2. Every pair of schedule (linear, scaled_linear,
squaredcos_cap_v2, sigmoid) and spacing (leading, linspace, trailing) that the class has is a case,
for each variance, order, SDE and variant; on linear also each prediction type, clipping and
thresholding; zero SNR, Karras's and even levels, flow and EDM's path where the class knows them.
squaredcos_cap_v2 predicts v. S_churn and S_noise come with Heun's step, as in the paper, only in
KarrasVe. conformance.json has every case by its name."""

DIFFERENCES = """\
Why some combinations are not among the cases above, or not as they come; and where diffusers
departs from the paper. Here x_t = alpha x_0 + sigma eps always holds, the grid is the one that was
asked for, alpha may be 0, and no step to t = 0 adds noise (Ho et al. 2020, Algorithm 2). The cases
above use what they have in common: `use_clipped_model_output`, no noise in the last step, 10 steps
(which divide 1000, and 9 divides 999), the indices of DPMSolver and UniPC, alpha_bar = 2^-24. Its
published forms of DPM-Solver++ and UniPC, and the sign in SDE 3M, are measured further up."""
