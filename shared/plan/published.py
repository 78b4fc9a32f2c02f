"""Printed figures, only ever compared with what the formulas give.

REPORT is the Step-3 report (arXiv 2507.19427v1); RELEASE is the comparison table of the model's
release, at 32768 tokens of context. Figures are kept as printed, since their digits count.
"""

from __future__ import annotations

from collections.abc import Mapping

Rows = Mapping[str, tuple[str | None, ...]]

# Parameters in B: total, active. At 32768 tokens: KV elements, core FLOPs, intensity.
RELEASE_ATTENTION: Rows = {
    "Step-3": ("316", "38", "1.02e9", "1.31e11", "128"),
    "DSv3": ("671", "37", "1.15e9", "5.89e11", "512"),
    "Qwen3 MoE": ("235", "22", "3.15e9", "1.01e11", "32"),
    "ERNIE 4.5": ("300", "47", "3.60e9", "5.80e10", "16"),
    "Qwen3 32B": (None, "32", "4.30e9", "6.87e10", "16"),
}

# Tables 2 (8K) and 3 (32K): KV and state bytes, FLOPs of core attention, projections and FFN.
REPORT_LOAD_8K: Rows = {
    "DSv3": ("2.88e8", "1.47e11", "2.28e10", "4.84e10"),
    "Kimi K2": ("2.88e8", "7.37e10", "1.23e10", "4.84e10"),
    "Qwen3 MoE": ("7.89e8", "2.52e10", "1.34e10", "2.84e10"),
    "Qwen3 32B": ("1.07e9", "1.72e10", "1.21e10", "5.03e10"),
    "Llama 4 M": ("1.01e9", "8.05e9", "6.04e9", "2.42e10"),
    "MM M1": ("9.23e8", "3.42e9", "3.75e10", "5.44e10"),
    "ERNIE 4.5": ("9.06e8", "1.45e10", "1.63e10", "7.61e10"),
    "Pangu Pro": ("8.05e8", "8.05e9", "6.04e9", "2.38e10"),
    "Step-3": ("2.56e8", "3.27e10", "2.07e10", "5.33e10"),
}
REPORT_LOAD_32K: Rows = {
    "DSv3": ("1.15e9", "5.89e11", "2.28e10", "4.84e10"),
    "Kimi K2": ("1.15e9", "2.95e11", "1.23e10", "4.84e10"),
    "Qwen3 MoE": ("3.15e9", "1.01e11", "1.34e10", "2.84e10"),
    "Qwen3 32B": ("4.29e9", "6.87e10", "1.21e10", "5.03e10"),
    "Llama 4 M": ("2.21e9", "1.41e10", "6.04e9", "2.42e10"),
    "MM M1": ("1.93e9", "1.15e10", "3.75e10", "5.44e10"),
    "ERNIE 4.5": ("3.62e9", "5.80e10", "1.63e10", "7.61e10"),
    "Pangu Pro": ("3.22e9", "3.22e10", "6.04e9", "2.38e10"),
    "Step-3": ("1.02e9", "1.31e11", "2.07e10", "5.33e10"),
}

# Tables 4 and 5: roofline, USD for a FLOP, USD for a byte.
REPORT_HARDWARE: Rows = {
    "H800": ("591", "2.80e-19", "1.66e-16"),
    "H20": ("74", "7.51e-19", "5.56e-17"),
    "A800": ("156", "6.68e-19", "1.04e-16"),
    "910B": ("175", "6.65e-19", "1.16e-16"),
}

# Table 6, USD for a million tokens on H800, H20, A800, 910B: attention at 8K and 32K, and FFN.
REPORT_ATTENTION_COST_8K: Rows = {
    "DSv3": ("0.054", "0.128", "0.114", "0.113"),
    "Kimi K2": ("0.051", "0.065", "0.057", "0.057"),
    "Qwen3 MoE": ("0.135", "0.054", "0.091", "0.101"),
    "Qwen3 32B": ("0.181", "0.069", "0.120", "0.133"),
    "Llama 4 M": ("0.169", "0.060", "0.109", "0.121"),
    "MM M1": ("0.164", "0.079", "0.121", "0.132"),
    "ERNIE 4.5": ("0.155", "0.063", "0.105", "0.116"),
    "Pangu Pro": ("0.135", "0.049", "0.088", "0.098"),
    "Step-3": ("0.048", "0.040", "0.040", "0.043"),
}
REPORT_ATTENTION_COST_32K: Rows = {
    "DSv3": ("0.197", "0.460", "0.409", "0.407"),
    "Kimi K2": ("0.194", "0.231", "0.205", "0.204"),
    "Qwen3 MoE": ("0.527", "0.185", "0.338", "0.376"),
    "Qwen3 32B": ("0.716", "0.248", "0.455", "0.508"),
    "Llama 4 M": ("0.369", "0.128", "0.235", "0.262"),
    "MM M1": ("0.330", "0.135", "0.226", "0.249"),
    "ERNIE 4.5": ("0.606", "0.214", "0.388", "0.432"),
    "Pangu Pro": ("0.536", "0.183", "0.340", "0.379"),
    "Step-3": ("0.176", "0.114", "0.120", "0.133"),
}
REPORT_FFN_COST: Rows = {
    "DSv3": ("0.014", "0.036", "0.032", "0.032"),
    "Kimi K2": ("0.014", "0.036", "0.032", "0.032"),
    "Qwen3 MoE": ("0.008", "0.021", "0.019", "0.019"),
    "Qwen3 32B": ("0.014", "0.038", "0.034", "0.033"),
    "Llama 4 M": ("0.007", "0.018", "0.016", "0.016"),
    "MM M1": ("0.015", "0.041", "0.036", "0.036"),
    "ERNIE 4.5": ("0.021", "0.057", "0.051", "0.051"),
    "Pangu Pro": ("0.007", "0.018", "0.016", "0.016"),
    "Step-3": ("0.015", "0.040", "0.036", "0.035"),
}

# Section 4.2, observation 1: USD for a million tokens at 8K and 32K, cheapest card for each side.
REPORT_BEST: Rows = {
    "Step-3": ("0.055", "0.129"),
    "DSv3": ("0.068", "0.211"),
    "Qwen3 MoE": ("0.062", "0.193"),
}

# Table 7 and section 5.4: minimum sparsity at the NICs' rate, and at 40 GB/s a NIC.
REPORT_SPARSITY: Rows = {
    "H800": ("0.058", "0.073"),
    "H20": ("0.007", None),
    "A800": ("0.031", None),
    "910B": ("0.034", None),
}

# Section 5.1: intensity with an 8-bit cache, and effective rank of attention.
REPORT_INTENSITY: Rows = {
    "Step-3": ("128", "16384"),
    "DSv3": ("512", "16384"),
    "Qwen3 MoE": ("32", "8192"),
}

# Sections 5.4, 6 and 7.3: single figures of the text, in the order of tables.text_figures.
REPORT_TEXT: Rows = {
    "stage time of a layer, us": ("272",),
    "Step-3: sparsity": ("0.08",),
    "DSv3: routed experts wanted on H800": ("14",),
    "L20: MB read in a stage": ("235",),
    "L20: MB of attention weights a layer": ("67",),
    "L20: MB left for KV": ("168",),
    "L20: thousand tokens of KV": ("328",),
    "L20: sequences of 8K": ("41",),
    "L20: MB of FFN weights a layer": ("117",),
    "L20: GB of FFN weights a card": ("7.1",),
    "L20: GB of FFN weights a server": ("56.8",),
    "L20: cards for the FFN": ("48",),
    "L4: cards for the FFN": ("144",),
    "8 x 400 Gb/s: tokens of a micro-batch": ("3072",),
}
