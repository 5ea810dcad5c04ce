"""Requests to chat models at an endpoint, and a cache of their answers on disk."""
