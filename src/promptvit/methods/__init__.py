"""The methods; importing a module registers what it holds."""

from promptvit.methods import baselines, gapt, lspt, spt, vpt
from promptvit.methods.base import Encoded, Method, MethodConfig, build_method, list_methods, method_class, register

__all__ = ["Encoded", "Method", "MethodConfig", "baselines", "build_method", "gapt", "list_methods", "lspt", "method_class", "register", "spt", "vpt"]
