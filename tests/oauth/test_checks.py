"""The 28 checks of an OAuth client that each fail on a naive one, and where they are."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

CHECKS: dict[int, tuple[str, tuple[str, ...]]] = {
    1: (
        "50 requests at once with an expired token: one token request, all succeed, the grant lives on",
        ("stories/test_keeping.py::test_fifty_requests_with_an_expired_token_make_one_token_call",),
    ),
    2: (
        "the same with two processes on one database",
        (
            "stories/test_replicas.py::test_a_dead_token_in_both_is_one_token_call",
            "oauth/test_replicas.py::test_a_401_everywhere_is_one_token_call",
        ),
    ),
    3: (
        "a refresh that ends the old access token, with requests in flight: no second refresh, no 401 for a caller",
        (
            "oauth/test_renewal.py::test_generations_are_compared_and_not_clocks",
            "stories/test_main_job.py::test_each_guide_s_flow_from_import_to_restart",
        ),
    ),
    4: (
        "an access token that ended early: one refresh, one retry, the same POST body",
        (
            "stories/test_main_job.py::test_each_guide_s_flow_from_import_to_restart",
            "proxy/test_replay.py::test_a_body_is_sent_again_byte_for_byte",
        ),
    ),
    5: (
        "401 for a missing permission while the token lives: at most one refresh, then none for that token",
        (
            "oauth/test_dead_tokens.py::test_one_refused_renewal_holds_the_next_ones",
            "stories/test_dead_answers.py::test_a_401_for_a_permission_costs_one_renewal_and_no_more",
            "proxy/test_signals.py::test_other_answers_are_the_callers",
        ),
    ),
    6: (
        "validate says live: no refresh at all",
        (
            "oauth/test_dead_tokens.py::test_live_means_no_refresh_and_one_validate_call_for_fifty",
            "stories/test_main_job.py::test_a_live_token_is_not_renewed_for_a_401",
        ),
    ),
    7: (
        "the answer is lost: reported with a strict server, recovered with one that has a window",
        (
            "oauth/test_journal.py::test_a_lost_answer_of_a_strict_provider_is_told_as_such",
            "oauth/test_journal.py::test_a_lost_answer_is_asked_for_again_at_once",
        ),
    ),
    8: (
        "kill -9 between the answer and our commit: told as a lost answer after the restart, no crash loop",
        (
            "reliability/test_kills.py::test_a_kill_at_each_step_loses_only_what_no_client_could_keep",
            "reliability/test_kills.py::test_kills_at_random_moments_lose_no_login",
        ),
    ),
    9: (
        "503 with Retry-After: tokens kept, back-off kept, a live access token still used",
        (
            "oauth/test_failures.py::test_an_outage_is_waited_for",
            "oauth/test_renewal.py::test_the_back_off_is_kept",
            "oauth/test_ceilings.py::test_slow_down_is_said_to_all_of_its_accounts",
        ),
    ),
    10: (
        "HTML with 200 is transient, nothing overwritten",
        (
            "oauth/test_failures.py::test_an_answer_that_is_none_overwrites_nothing",
            "stories/test_main_job.py::test_rubbish_from_the_token_endpoint_takes_nothing_away",
        ),
    ),
    11: (
        "a client that hangs up during the refresh: it completes and is stored",
        (
            "oauth/test_renewal.py::test_a_renewal_outlives_whoever_waits",
            "stories/test_main_job.py::test_a_caller_that_hangs_up_does_not_stop_the_renewal",
        ),
    ),
    12: (
        "SIGTERM during the refresh: stored before exit",
        (
            "stories/test_keeping.py::test_sigterm_during_a_refresh_stores_the_pair",
            "oauth/test_renewal.py::test_close_waits_for_a_renewal_that_was_sent",
        ),
    ),
    13: (
        "a refresh token that is not rotated is kept; without one, a login or asking again",
        (
            "oauth/test_renewal.py::test_a_refresh_token_that_is_not_rotated_stays",
            "oauth/test_renewal.py::test_no_refresh_token_and_a_dead_access_token",
            "oauth/test_by_itself.py::test_a_401_and_expiry_ask_again",
        ),
    ),
    14: (
        "a client id with a colon and blanks; the wrong client authentication is reported as configuration",
        (
            "oauth/test_signing.py::test_an_id_with_odd_signs",
            "oauth/test_signing.py::test_the_other_way_is_refused_and_reported_as_configuration",
            "oauth/test_failures.py::test_the_wrong_client_authentication_is_reported_as_configuration",
        ),
    ),
    15: (
        "expires_in of every odd kind",
        (
            "core/test_replies.py::test_odd_lifetimes",
            "core/test_replies.py::test_absolute_expiries",
            "core/test_replies.py::test_what_lay_somewhere_may_be_over",
        ),
    ),
    16: (
        "an answer without, with an empty and with a null refresh token",
        (
            "core/test_replies.py::test_no_refresh_token_in_the_answer",
            "oauth/test_renewal.py::test_a_refresh_token_that_is_not_rotated_stays",
        ),
    ),
    17: (
        "tokens with CR LF, blanks, other than ASCII, of 64 KB",
        (
            "core/test_replies.py::test_an_access_token_that_no_header_can_carry",
            "core/test_replies.py::test_tokens_of_any_size_and_visible_sign",
            "oauth/test_failures.py::test_tokens_of_64_kilobytes",
            "proxy/test_replay.py::test_a_token_with_a_line_break_never_leaves",
        ),
    ),
    18: (
        "state missing, wrong, reused, of another connection; iss wrong or missing; error=",
        (
            "oauth/test_logins.py::test_a_stranger_s_landing_ends_no_login",
            "oauth/test_logins.py::test_a_state_counts_once",
            "oauth/test_logins.py::test_a_state_that_came_to_another_account_s_address_is_spent",
            "oauth/test_logins.py::test_the_issuer_is_looked_at",
            "oauth/test_logins.py::test_a_provider_that_says_no",
            "oauth/test_logins.py::test_a_state_that_came_by_another_kind_of_address_is_spent",
        ),
    ),
    19: (
        "a callback in the fragment, expressions in both dialects, a hostile long fragment",
        (
            "core/test_login.py::test_deskpros_expressions_as_its_guide_has_them",
            "oauth/test_deskpro.py::test_a_hostile_fragment_is_the_end_of_its_own_login_only",
            "oauth/test_logins.py::test_an_expression_that_would_backtrack_for_ever_stalls_nobody",
        ),
    ),
    20: (
        "whatever a caller sends in the token's place, it does not reach the upstream",
        (
            "proxy/test_forwarding.py::test_only_our_token_stands_in_its_place",
            "proxy/test_forwarding.py::test_a_callers_authorization_goes_on_only_where_the_route_says_so",
            "proxy/test_injection.py::test_no_parameter_of_the_callers_stands_in_its_place",
        ),
    ),
    21: (
        "an upstream that redirects to another host: the token is not sent there",
        (
            "proxy/test_answers.py::test_a_redirect_is_the_callers_business",
            "stories/test_dead_answers.py::test_a_redirect_takes_no_token_elsewhere",
        ),
    ),
    22: (
        "instance_url pointing elsewhere is refused",
        (
            "core/test_captured.py::test_an_instance_that_points_elsewhere_is_refused",
            "oauth/test_signing.py::test_an_instance_that_points_elsewhere_is_refused_and_the_login_kept",
        ),
    ),
    23: (
        "a scope with blanks is %20 in the authorization address",
        ("core/test_login.py::test_askaras_address_as_its_guide_has_it",),
    ),
    24: (
        "a server like Exact Online's: no refresh earlier than 30 s before expiry",
        (
            "oauth/test_scheduler.py::test_never_before_the_providers_own_limit",
            "oauth/test_renewal.py::test_nothing_before_the_providers_own_limit",
            "oauth/test_failures.py::test_too_early_is_tried_again_when_it_is_time",
            "oauth/test_keep_alive.py::test_what_must_not_be_renewed_now_is_not",
        ),
    ),
    25: (
        "nothing secret in the log at level debug",
        (
            "oauth/test_secrets.py::test_a_full_life_leaves_no_secret_in_the_log",
            "oauth/test_login_secrets.py::test_logins_leave_no_secret_in_the_log",
            "stories/test_main_job.py::test_no_secret_in_anything_that_the_program_writes",
        ),
    ),
    26: (
        "the device flow: slow_down, no interval, expiry, denial",
        (
            "oauth/test_device.py::test_slow_down_is_for_good",
            "core/test_device.py::test_an_interval_that_makes_no_sense_is_five_seconds",
            "oauth/test_device.py::test_nobody_says_anything",
            "oauth/test_device.py::test_somebody_says_no",
        ),
    ),
    27: (
        "DPoP with a nonce at both servers; the key survives a restart",
        (
            "oauth/test_signing.py::test_proofs_with_a_nonce_and_a_key_that_survives",
            "proxy/test_dpop.py::test_a_nonce_that_is_asked_for_is_sent_at_once_and_from_then_on",
            "stories/test_dead_answers.py::test_a_key_outlives_the_program",
            "independent/test_openid.py::test_bound_tokens_work_on_after_a_restart",
        ),
    ),
    28: (
        "a full disk or a read-only database at commit: tokens kept, readiness red, nothing lost by a crash",
        (
            "stories/test_on_call.py::test_a_store_that_takes_no_token_is_told_by_status_and_by_the_exit_code",
            "stories/test_on_call.py::test_what_the_store_did_not_take_is_there_after_a_crash",
            "stores/test_sqlite.py::test_a_full_disk_changes_nothing_and_the_same_commit_works_later",
            "reliability/test_faults.py::test_whichever_store_call_fails_no_login_is_lost",
        ),
    ),
}
"""Number -> what is checked, and the tests that do."""


def test_every_check_has_its_tests() -> None:
    """None is forgotten."""
    assert CHECKS.keys() == set(range(1, 29))


@pytest.mark.parametrize("number", CHECKS)
def test_the_tests_of_a_check_are_there(number: int) -> None:
    """A test that is renamed or dropped takes its check along, and somebody must notice."""
    _, named = CHECKS[number]
    assert named
    for each in named:
        path, _, name = each.partition("::")
        tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
        defined = {
            node.name for node in tree.body if isinstance(node, ast.AsyncFunctionDef | ast.FunctionDef)
        }
        assert name in defined, each
