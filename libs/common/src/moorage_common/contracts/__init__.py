"""What crosses process boundaries. Pydantic and the standard library only; additive change only.

One module a topic: `names`, `keys`, `routes`, `desired`, `endpoints`, `host_calls`, `usage`, `events`, `load`,
`features`, `request_id`, `rollouts`, `signals`, `feedback`. Every model is frozen and ignores fields
it does not know, so that a newer writer can talk to an older reader.
"""
