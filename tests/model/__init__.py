"""A model of the transitions: what may become of tasks and steps, as pure functions over small immutable rows.

It is written from the promises in docs/architecture.md, not from the SQL: where the product keeps counters and
queues up to date step by step, the model says what must follow (`consequences`). `contracts.policy` decides what a
failure means; nothing of `shared_state` is used.
"""
