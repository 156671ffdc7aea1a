"""The replica host: loads model versions, validates and batches requests, answers them."""
