"""Traces of requests, by W3C Trace Context and OpenTelemetry."""
