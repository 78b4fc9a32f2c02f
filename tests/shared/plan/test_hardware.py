import pytest

from shared.errors import InvalidArgument
from shared.plan.hardware import ACCELERATORS, accelerator


def test_a_card_is_found_in_any_letter_case() -> None:
    assert accelerator("h800") is ACCELERATORS["H800"]


def test_an_unknown_card_is_named_with_its_field() -> None:
    with pytest.raises(InvalidArgument, match=r"ffn-gpu = 'V100'.*H800") as caught:
        accelerator("V100", field="ffn-gpu")
    assert caught.value.field == "ffn-gpu"


def test_eight_bit_operands_without_an_eight_bit_unit_run_in_bf16() -> None:
    assert ACCELERATORS["A800"].rate("fp8") == ACCELERATORS["A800"].bf16
    assert ACCELERATORS["A800"].rate("int8") == 2 * ACCELERATORS["A800"].bf16
    assert ACCELERATORS["H800"].rate("bf16") == 9.89e14


def test_a_card_without_price_has_no_cost() -> None:
    with pytest.raises(InvalidArgument, match="'L20'"):
        _ = ACCELERATORS["L20"].usd_per_flop
