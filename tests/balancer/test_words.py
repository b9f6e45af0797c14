"""The documents have the words that decide, as the code does."""

from pathlib import Path

from vbrcore.balancer import words
from vbrcore.balancer.gateways import Gateway, choose_gateway
from vbrcore.service import serverchecks

OPERATOR = (Path(__file__).resolve().parents[2] / "docs" / "operator.md").read_text()


def test_the_decision_table_of_the_documents_is_that_of_the_code() -> None:
    assert words.decision_table() in OPERATOR


def test_every_reason_for_being_no_candidate_is_documented_in_its_words() -> None:
    for code, text in words.EXCLUDED.items():
        assert f"| `{code}` | {text} |" in OPERATOR


def test_every_reason_for_a_gateway_has_words_in_the_table() -> None:
    choices = (
        choose_gateway([Gateway("a"), Gateway("b")], last="b"),
        choose_gateway([Gateway("a", "x"), Gateway("b", "y")], share_site="x"),
        choose_gateway([Gateway("a", connect_s=0.001), Gateway("b", connect_s=0.1)]),
        choose_gateway([Gateway("a", slots=2, used=1), Gateway("b", slots=2)]),
        choose_gateway([Gateway("a")]),
    )
    reasons = [choice.reason for choice in choices]
    assert reasons == ["served_the_chain_last", "same_site", "fastest", "least_loaded", words.ONLY_GATEWAY]
    assert all(words.gateway_words(reason) for reason in reasons)


def test_every_finding_of_a_check_is_documented() -> None:
    text = Path(serverchecks.__file__).read_text()
    for code in ("python_missing", "data_port_unreachable", "clock_off", "few_data_ports", "little_space"):
        assert f'"{code}"' in text
        assert f"`{code}`" in OPERATOR
