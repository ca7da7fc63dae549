"""What torch calls: operations on each value by itself, and others that go by rows."""

from __future__ import annotations

import operator

import torch
from torch import nn
from torch.nn import functional

#: Modules that work on each value by itself.
POINTWISE_MODULES = (
    nn.BatchNorm2d,
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.Mish,
    nn.PReLU,
    nn.ReLU,
    nn.ReLU6,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Tanh,
)
#: Modules that do nothing in evaluation mode.
NOTHING = (nn.Dropout, nn.Dropout2d, nn.Identity)
IN_PLACE_OPERATORS = {operator.iadd, operator.isub, operator.imul, operator.itruediv}
_POINTWISE_NAMES = (
    *("abs", "add", "clamp", "clip", "div", "exp", "maximum", "minimum", "mul", "neg", "pow"),
    *("relu", "sigmoid", "sqrt", "square", "sub", "tanh", "true_divide"),
)
POINTWISE_FUNCTIONS = {
    *(getattr(torch, name) for name in _POINTWISE_NAMES),
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.neg, operator.pow),
    *IN_PLACE_OPERATORS,
    *(functional.celu, functional.elu, functional.gelu, functional.hardsigmoid),
    *(functional.hardswish, functional.hardtanh, functional.leaky_relu, functional.mish),
    *(functional.relu, functional.relu6, functional.selu, functional.silu, functional.softplus),
    *(functional.sigmoid, functional.tanh),
}
POINTWISE_METHODS = {*_POINTWISE_NAMES, "leaky_relu", "clone"}
METHODS_IN_PLACE = {f"{name}_" for name in _POINTWISE_NAMES}
#: Methods that tell of sizes.
SHAPES = {"size", "dim", "ndimension", "numel"}
#: Sizes change by fractions of small whole numbers.
LARGEST_DIVISOR = 16
#: Interpolations, and how many rows on each side bear upon what is made of one.
CONTEXT = {"nearest": 0, "nearest-exact": 0, "bilinear": 1, "bicubic": 2}
