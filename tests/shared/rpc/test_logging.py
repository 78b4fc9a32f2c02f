from __future__ import annotations

import logging
import sys

from shared.rpc.logging import LineFormatter, request_id


def record(message: str, *args: object, exc_info=None) -> logging.LogRecord:
    return logging.LogRecord("name", logging.INFO, __file__, 1, message, args, exc_info)


def test_a_record_is_one_line_whatever_it_holds():
    token = request_id.set("r 1")
    try:
        raise ValueError("two\nlines")
    except ValueError:
        line = LineFormatter("gateway").format(record('a "%s"', "b\nc", exc_info=sys.exc_info()))
    finally:
        request_id.reset(token)
    assert "\n" not in line
    assert 'request="r 1"' in line
    assert 'msg="a \\"b\\nc\\""' in line
    assert "two\\nlines" in line


def test_plain_values_stay_unquoted():
    line = LineFormatter("gateway").format(record("ready"))
    assert line.startswith("ts=")
    assert line.endswith("level=info service=gateway logger=name msg=ready")
