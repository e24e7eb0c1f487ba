"""Devices and processes that share the tasks of an outer step."""
