import grpc
import pytest

from shared.rpc.client import RpcError
from ui.problems import describe

ADDRESS = "127.0.0.1:7300"
CODES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


@pytest.mark.parametrize("code", CODES)
def test_every_code_says_what_happened_and_what_to_do(code: grpc.StatusCode):
    problem = describe(RpcError(code, code.name, "the gateway's sentence"), ADDRESS)
    assert problem.title
    assert problem.detail
    assert problem.advice


def test_a_gateway_that_is_away_is_told_from_one_that_is_starting():
    channel = "failed to connect to all addresses; ipv4:127.0.0.1:7300: Connection refused"
    away = describe(RpcError(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", channel), ADDRESS)
    assert ADDRESS in away.detail
    assert "./step3 up" in away.advice
    assert "ipv4" not in away.detail
    starting = describe(
        RpcError(grpc.StatusCode.UNAVAILABLE, "STARTING", "Loading.", retry_after_s=3.0), ADDRESS
    )
    assert (starting.detail, starting.advice) == ("Loading.", "Try again in 3 s.")


@pytest.mark.parametrize(
    ("reason", "title", "advice"),
    [
        ("IMAGE_UNDECODABLE", "An image cannot be used", "PNG"),
        ("TOO_MANY_IMAGES", "There are too many images", "fewer"),
        ("PROMPT_TOO_LONG", "The conversation is too long for the model", "new chat"),
        ("TOP_P_OUT_OF_RANGE", "The request cannot be answered as it is", "settings"),
    ],
)
def test_bad_requests_are_told_apart_by_their_reason(reason: str, title: str, advice: str):
    error = RpcError(grpc.StatusCode.INVALID_ARGUMENT, reason, "parts[0]: is wrong; change it")
    problem = describe(error, ADDRESS)
    assert problem.title == title
    assert problem.detail == "parts[0]: is wrong; change it"
    assert advice in problem.advice


def test_a_full_queue_says_how_long_to_wait():
    error = RpcError(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL", "64 running.", retry_after_s=5.0
    )
    assert describe(error, ADDRESS).advice == "Try again in 5 s."
