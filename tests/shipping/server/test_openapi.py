"""Whatever our OpenAPI document allows, and much that it does not, gets an answer that the document describes."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, Phase, given, settings

schemathesis = pytest.importorskip("schemathesis")
from schemathesis.checks import not_a_server_error  # noqa: E402 - only where it is installed
from schemathesis.specs.openapi.checks import (  # noqa: E402
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
# With --run-slow: so many cases for each of 12 operations that take a body, half of them against the document.
MANY_CASES = 1_200


@pytest.mark.parametrize("num_cases", [12, pytest.param(MANY_CASES, marks=pytest.mark.slow)])
def test_no_request_makes_the_server_fail(server, num_cases):
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    asked = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        num = num_cases if operation.method.upper() == "POST" else max(2, num_cases // 20)

        def ask(case):
            nonlocal asked
            asked += 1
            case.validate_response(case.call(base_url=server.url), checks=CHECKS)

        for mode in schemathesis.GenerationMode:
            if mode == schemathesis.GenerationMode.NEGATIVE and operation.method.upper() == "GET":
                continue
            strategy = operation.as_strategy(generation_mode=mode)
            settings(
                max_examples=max(1, num // 2),
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )(given(case=strategy)(ask))()
    print(asked, "cases")
    assert asked >= num_cases * 8
    if num_cases == MANY_CASES:
        assert asked >= 10_000


def test_the_document_names_every_address(server):
    document = server.ask("/openapi.json").json()
    assert document["openapi"].startswith("3.")
    paths = set(document["paths"])
    assert {"/predict", "/", "/invocations", "/v1/moderations", "/v2/models/{model}/infer", "/explain"} <= paths
    names = [one["operationId"] for path in document["paths"].values() for one in path.values()]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"\w+", name) for name in names)
