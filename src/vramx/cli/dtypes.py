"""Names of what models compute in, as `vramx.integrations.torch.precision` has them."""

DTYPE_NAMES = ("half", "float16", "bf16", "bfloat16", "float", "float32")
