"""Verification of backends and gradients, shipped with the package: no pytest, no hypothesis."""

from nnkernels.errors import VerificationError
from nnkernels.testing.conformance import Conformance
from nnkernels.testing.gradients import GradientReport, check_gradients, numerical_gradient
from nnkernels.testing.networks import NETWORKS
from nnkernels.testing.opaque import OpaqueArray, OpaqueDevice, opaque_backend
from nnkernels.testing.report import Failure, Report
from nnkernels.testing.suite import verify

__all__ = [
    "NETWORKS",
    "Conformance",
    "Failure",
    "GradientReport",
    "OpaqueArray",
    "OpaqueDevice",
    "Report",
    "VerificationError",
    "check_gradients",
    "numerical_gradient",
    "opaque_backend",
    "verify",
]
