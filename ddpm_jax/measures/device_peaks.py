"""What devices can compute at best, to say how much of it a run uses."""

# TFLOP/s of dense bfloat16 matrix products with float32 sums, by jax's `device_kind`. A device of
# jax is a chip, but for TPU v2 and v3, where it is one of the two cores of a chip. NVIDIA's data
# sheets give the rate with sparsity, twice the dense one, from Ada and Hopper on.
BFLOAT16_TFLOPS: dict[str, float] = {
    # NVIDIA A100, A30, A40, A10 data sheets and the RTX A6000's (GA102 white paper, appendix).
    "NVIDIA A100-SXM4-40GB": 312.0,
    "NVIDIA A100-SXM4-80GB": 312.0,
    "NVIDIA A100-PCIE-40GB": 312.0,
    "NVIDIA A100 80GB PCIe": 312.0,
    "NVIDIA A30": 165.0,
    "NVIDIA A40": 149.7,
    "NVIDIA A10": 125.0,
    "NVIDIA RTX A6000": 154.8,
    # NVIDIA H100 and H200 data sheets, and the GH200's: half of 1,979, 1,513 and 1,671.
    "NVIDIA H100 80GB HBM3": 989.5,
    "NVIDIA H100 PCIe": 756.5,
    "NVIDIA H100 NVL": 835.5,
    "NVIDIA H200": 989.5,
    "NVIDIA H200 NVL": 835.5,
    "NVIDIA GH200 480GB": 989.5,
    # NVIDIA L4, L40 and L40S data sheets: half of 242, 362 and 733.
    "NVIDIA L4": 121.0,
    "NVIDIA L40": 181.0,
    "NVIDIA L40S": 366.5,
    # NVIDIA Blackwell architecture brief: half of 4,500.
    "NVIDIA B200": 2250.0,
    # cloud.google.com/tpu/docs, "TPU v2" to "TPU v6e": peak compute per chip in bf16.
    "TPU v2": 45.0 / 2,
    "TPU v3": 123.0 / 2,
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5e": 197.0,
    "TPU v5": 459.0,
    "TPU v5p": 459.0,
    "TPU v6 lite": 918.0,
    "TPU v6e": 918.0,
}
UNKNOWN = "unknown"


def peak_flops(device_kind: str) -> float | None:
    """FLOP a second that a device can do at best, dense and in bfloat16; None if nobody knows."""
    tera = BFLOAT16_TFLOPS.get(device_kind)
    return None if tera is None else tera * 1e12


def mfu(flop_per_second: float, device_kind: str, num_devices: int) -> float | str:
    """Model FLOP utilisation: the share of the devices' peak that a model's own FLOP take.

    The peak is that of bfloat16, whatever the run computes in: a float32 run cannot reach it.

    Args:
      flop_per_second: model FLOP (`model_flop`) of all devices together.
      device_kind: jax's.
      num_devices: of this kind.

    Returns:
      From 0 to 1; "unknown" for a device that is not in the table, such as a CPU or a part of a
      GPU.

    Source: Chowdhery et al. 2022, "PaLM", appendix B.
    """
    peak = peak_flops(device_kind)
    return UNKNOWN if peak is None else flop_per_second / (peak * num_devices)
