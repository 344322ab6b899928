"""The service against its own OpenAPI document: whatever schemathesis sends, the answer is one that the document promises."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from running import running, small_bank
from schemathesis import GenerationMode, checks


@pytest.fixture(scope="module")
def service():
    with running(small_bank(), timeout=5.0) as found:
        yield found


@pytest.fixture(scope="module")
def document(service):
    return schemathesis.openapi.from_url(f"http://127.0.0.1:{service.port}/openapi.json")


ASK, SHOW = ("/v1/tasks/{task}/predict", "/v1/tasks/{task}/attention"), ("/v1/tasks", "/healthz", "/metrics")
CASES = [
    *((path, "POST", mode) for path in ASK for mode in GenerationMode),
    *((path, "GET", GenerationMode.POSITIVE) for path in SHOW),  # nothing to get wrong there
]


def test_all_paths_are_in_the_document(document):
    assert {operation.ok().path for operation in document.get_all_operations()} == {*ASK, *SHOW}


@pytest.mark.parametrize(("path", "method", "mode"), CASES, ids=lambda value: getattr(value, "value", value))
def test_keeps_what_its_document_promises(service, document, path, method, mode):
    @settings(max_examples=50, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(case=document[path][method].as_strategy(generation_mode=mode))
    def keeps(case):
        if len((case.path_parameters or {}).get("task", "")) == 1:
            case.path_parameters["task"] = "deep"  # else hardly any request gets beyond its unknown task
        case.call_and_validate(excluded_checks=[checks.positive_data_acceptance])  # bytes that are no image are refused

    keeps()
    assert service.alive()
