"""The methods; importing a module registers what it holds."""

from promptvit.methods import baselines, gapt, lora, lspt, sa2vp, spt, vpt
from promptvit.methods.base import Encoded, Method, MethodConfig, build_method, list_methods, method_class, method_config, register

__all__ = [
    "Encoded",
    "Method",
    "MethodConfig",
    "baselines",
    "build_method",
    "gapt",
    "list_methods",
    "lora",
    "lspt",
    "method_class",
    "method_config",
    "register",
    "sa2vp",
    "spt",
    "vpt",
]
