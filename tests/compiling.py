"""How the suite compiles: quickly, and as a user's run does where programs are compared in bits."""

# Most programs of the suite run once: compiling them is what costs (a step of a tiny U-Net took
# 9.9 s to compile, with these 3.5 s).
QUICKLY = {"xla_backend_optimization_level": "0", "xla_cpu_use_fusion_emitters": "false"}

# jax.jit's compiler_options of two programs that must agree to the bit: without the fusion
# emitters, multiplications and additions contract in one program and not in the other.
TO_THE_BIT = {"xla_cpu_use_fusion_emitters": True}


def flags(asked, quickly):
    """XLA_FLAGS as asked for, and those of `quickly` that it does not name."""
    names = {word.lstrip("-").split("=")[0] for word in asked.split()}
    more = [f"--{name}={value}" for name, value in quickly.items() if name not in names]
    return " ".join([*asked.split(), *more])
