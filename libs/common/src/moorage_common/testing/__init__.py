"""Real servers for tests.

`servers` holds context managers (`nats_server`, `redis_server`, `postgres_server`), `fixtures` the pytest fixtures on
top of them (`nats_url`, `redis_url`, `postgres_url`, `own_nats`, `own_redis`). Each server listens on a free loopback
port, keeps its data in a directory of its own and dies with the process that started it.

Ray is not here: its head is the launcher's (`moorage_local.ray_head`), so tests that need a cluster import that.
"""
