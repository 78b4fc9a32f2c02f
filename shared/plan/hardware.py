"""Accelerators: price, peak rates, memory and network of one card.

Prices and rates of the H800, H20, A800 and 910B: Step-3 report (arXiv 2507.19427), Tables 4 and 5,
and its network assumption of section 5.4. The other cards: their vendor's data sheets, dense rates;
no price of them is published with the report, so none is given. Memory is the nominal decimal size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from shared.errors import InvalidArgument

Dtype = Literal["bf16", "fp8", "int8"]

# Cards of one server; an attention or FFN instance of the report is one server.
GPUS_PER_INSTANCE = 8


@dataclass(frozen=True, slots=True)
class Accelerator:
    """One card. Rates in FLOP/s (dense), bytes/s; `network` is the card's share of the NICs."""

    name: str
    usd_per_hour: float | None
    bf16: float
    fp8: float | None
    int8: float | None
    bandwidth: float
    memory: float
    network: float

    def rate(self, dtype: Dtype) -> float:
        """FLOP/s of a matrix product in `dtype`.

        8-bit operands without an 8-bit unit are computed in bf16, as the report assumes
        (section 4.1).
        """
        eight_bit = {"bf16": None, "fp8": self.fp8, "int8": self.int8}[dtype]
        return eight_bit or self.bf16

    @property
    def roofline(self) -> float:
        """FLOPs for one byte of memory traffic, at the FP8 rate where there is one."""
        return self.rate("fp8") / self.bandwidth

    @property
    def usd_per_flop(self) -> float:
        """Price of one FLOP at the peak rate.

        Raises:
          InvalidArgument: the card has no published price.
        """
        return self._usd_per_second / self.rate("fp8")

    @property
    def usd_per_byte(self) -> float:
        """Price of one byte of memory traffic at the peak bandwidth.

        Raises:
          InvalidArgument: the card has no published price.
        """
        return self._usd_per_second / self.bandwidth

    @property
    def _usd_per_second(self) -> float:
        if self.usd_per_hour is None:
            raise InvalidArgument(
                f"gpu = {self.name!r}: has no published price; priced are {', '.join(PRICED)}",
                reason="NO_PRICE",
                field="gpu",
            )
        return self.usd_per_hour / 3600


_CARDS = (
    #           name    USD/h  BF16      FP8       int8      B/s      bytes   NIC B/s
    Accelerator("H800", 2.00, 9.89e14, 1.98e15, 1.98e15, 3350e9, 80e9, 50e9),
    Accelerator("H20", 0.80, 1.48e14, 2.96e14, 2.96e14, 4000e9, 96e9, 50e9),
    Accelerator("A800", 0.75, 3.12e14, None, 6.24e14, 2000e9, 80e9, 25e9),
    Accelerator("910B", 0.67, 2.80e14, None, None, 1600e9, 64e9, 25e9),
    Accelerator("H100", None, 9.89e14, 1.98e15, 1.98e15, 3350e9, 80e9, 50e9),
    Accelerator("H200", None, 9.89e14, 1.98e15, 1.98e15, 4800e9, 141e9, 50e9),
    # Four 200 Gb/s NICs for eight cards: what the report gives a server of L20 (section 6).
    Accelerator("L20", None, 1.195e14, 2.39e14, 2.39e14, 864e9, 48e9, 12.5e9),
    Accelerator("L40S", None, 3.62e14, 7.33e14, 7.33e14, 864e9, 48e9, 12.5e9),
    Accelerator("L4", None, 1.21e14, 2.42e14, 2.42e14, 300e9, 24e9, 12.5e9),
)

ACCELERATORS: Mapping[str, Accelerator] = {card.name: card for card in _CARDS}
# The report's four, in its order.
PRICED: tuple[str, ...] = tuple(card.name for card in _CARDS if card.usd_per_hour is not None)


def accelerator(name: str, *, field: str = "gpu") -> Accelerator:
    """The card of that name, in any letter case.

    Raises:
      InvalidArgument: there is none; the message names `field` and the value.
    """
    try:
        return ACCELERATORS[name.upper()]
    except KeyError:
        raise InvalidArgument(
            f"{field} = {name!r}: must be one of {', '.join(ACCELERATORS)}",
            reason="UNKNOWN_GPU",
            field=field,
        ) from None
