"""Guards whose loss no test can show, with the reason. The runner fails when one of them is killed after all."""

EXPLAINED: dict[str, str] = {
    "cancel: only once": "the statement itself refuses a second time (cancel: live task)",
}
