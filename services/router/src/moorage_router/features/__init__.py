"""The feature join: entities out of a request, features from the feature-proxy, features into the request."""
