"""What the conformance suite is made of; it shares nothing with the codec that it judges."""
