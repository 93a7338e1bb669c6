"""The three sentences follow from the figures."""

from __future__ import annotations

from tests.reporting.made_engines import engine, engines_record

from bertwright.benchmarking.verdict import three_sentences


def sentences(*engines, **changed):
    return three_sentences(engines_record(list(engines), **changed))


def test_the_fastest_is_named_with_what_speaks_for_it():
    ours = engine("ours", 300, precision="bfloat16", padding_share=0.0)
    theirs = engine("theirs", 150, p50=4, gigabytes=0.5, first_token_only=False)
    fastest, soonest, thriftiest = sentences(theirs, ours)
    assert fastest == (
        "ours is the fastest with 300 texts/s, 2.00 times as many as the next, theirs: it computes in bfloat16, the "
        "other in float32; none of its tokens is padding, 4% of the other's, which explains little of it; its last "
        "layer is computed for the first token alone, the other's for all."
    )
    assert soonest == (
        "theirs answers one text soonest, half of the texts within 4 ms, 99 of 100 within 12 ms; the next, ours, needs "
        "10 ms for half."
    )
    assert thriftiest == ("theirs takes the least memory, 0.50 GB against 1.00 GB of ours; energy was not measured.")


def test_padding_is_no_more_of_a_reason_than_it_can_be():
    ours = engine("a", 200, padding_share=0.0)
    fastest, *_ = sentences(ours, engine("b", 100, padding_share=0.02))
    assert fastest.endswith("2% of the other's, which explains little of it: the most is its kernels.")
    fastest, *_ = sentences(ours, engine("b", 100, padding_share=0.3))
    assert fastest.endswith("none of its tokens is padding, 30% of the other's.")


def test_what_speaks_for_the_slower_is_no_reason():
    fastest, *_ = sentences(engine("a", 200), engine("b", 100, precision="int8", padding_share=0.0))
    assert fastest.endswith("b: neither dtype nor padding nor the last layer speaks for it, so that its kernels must.")


def test_differences_within_the_spread_are_a_tie():
    found = sentences(
        engine("a", 100, 10, 1.0, noise=0.1),
        engine("b", 95, 9.5, 1.02, noise=0.1),
        engine("c", 40, 30, 2.0),
    )
    assert found[0].startswith(
        "a and b tie for the fastest at about 100 texts/s, within the spread of their turns, 2.50"
    )
    assert found[1].startswith("b and a tie for the soonest answer to one text, b with half of the texts within 9.5 ms")
    assert found[2].startswith("a and b take the least memory, about 1.00 GB; energy")


def test_price_and_energy_are_told_where_they_are_known():
    def joules(value):
        return {"median": value, "min": value, "max": value}

    a = engine("a", 1000, joules_per_million_texts=joules(7.2e6))
    b = engine("b", 100, joules_per_million_texts=joules(3.6e6))
    _, _, last = sentences(a, b, usd_per_hour=3.6)
    assert last == (
        "At $3.6 an hour a is the cheapest: $0.278 a million texts; a and b take the least memory, about 1.00 GB; b "
        "takes the least energy, 1.000 kWh a million texts against 2.000 kWh a million texts of a."
    )


def test_who_was_not_timed_is_left_out():
    found = sentences(engine("a"), engine("b", not_run="a logit is off by 1"))
    assert found[0] == "a is the fastest with 100 texts/s."
    assert len(sentences(engine("b", not_run="no"))) == 3
