"""Pictures of a cluster: data in, text out. Nothing here asks a platform or looks at a terminal."""
