"""The sources of data sets, one module each, with ``build(data_config)`` and perhaps ``identity(data_config)``.

A source that is missing, incomplete or broken is reported as a `DataError` that names the file.
"""
