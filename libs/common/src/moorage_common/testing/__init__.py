"""Real servers for tests: nats-server, Redis, Postgres, Ray."""
