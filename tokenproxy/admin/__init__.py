"""Faces operators, on its own listeners: health, metrics, the API and a dashboard. Nothing here is on a request's path."""
